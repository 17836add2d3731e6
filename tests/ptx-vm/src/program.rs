//! A kernel in the form that the interpreter executes: operands are register rows, branches are indices,
//! device functions are inlined.

use crate::isa::Rule;
use crate::lanes::{LaneFn, Slot, Slots};
use crate::types::{Space, Ty};

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg {
    pub slot: Slot,
    /// Whether it is a 64-bit one, in two rows.
    pub wide: bool,
}

/// A kernel.
pub(crate) struct Program {
    pub name: String,
    pub instructions: Vec<Instruction>,
    /// Rows that the registers and constants of a warp take.
    pub rows: usize,
    /// Rows that hold the same value from the first instruction to the last.
    pub constants: Vec<(Reg, Constant)>,
    pub static_shared: usize,
    /// Bytes of local memory of a thread.
    pub local_bytes: usize,
    pub param_bytes: usize,
    /// The largest block that `.maxntid` or `.reqntid` allows.
    pub max_threads: Option<u32>,
    /// Blocks in a cluster, where `.reqnctapercluster` says so.
    pub cluster: Option<u32>,
}

/// One instruction and where it comes from.
pub(crate) struct Instruction {
    /// Line in the PTX text.
    pub line: u32,
    /// File index and line, from `.loc`.
    pub source: Option<(u32, u32)>,
    /// The predicate that must be true, or false where the flag is set.
    pub guard: Option<(Slot, bool)>,
    /// Machine code has it in the operands of others: see [`KernelStats::executed`](crate::KernelStats::executed).
    pub folded: bool,
    pub op: Op,
}

/// A value known before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// The address of a module variable plus an offset.
    Variable(usize, i64),
    /// The address of a byte of the kernel's parameters.
    Parameter(i64),
    /// An address in the dynamic shared memory, which starts after the static.
    DynamicShared(i64),
    Special(Special),
    /// The seed of the approximate instructions.
    Seed,
}

impl Constant {
    /// That many bytes further, for addresses.
    pub(crate) fn plus(self, offset: i64) -> Self {
        match self {
            Constant::Bits(bits) => Constant::Bits(bits.wrapping_add_signed(offset)),
            Constant::Variable(index, at) => Constant::Variable(index, at.wrapping_add(offset)),
            Constant::Parameter(at) => Constant::Parameter(at.wrapping_add(offset)),
            Constant::DynamicShared(at) => Constant::DynamicShared(at.wrapping_add(offset)),
            other => other,
        }
    }
}

/// The special registers. Axis 0, 1, 2 are x, y, z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    LaneId,
    WarpId,
    NwarpId,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    DynamicShared,
    TotalShared,
    /// Registers that name the processor or the grid: zero here.
    Zero,
    /// Registers that count them: one here.
    One,
}

impl Special {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix('%')?;
        if let Some((base, axis)) = name.split_once('.') {
            let axis = match axis {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            };
            return Some(match base {
                "tid" => Special::Tid(axis),
                "ntid" => Special::Ntid(axis),
                "ctaid" => Special::Ctaid(axis),
                "nctaid" => Special::Nctaid(axis),
                "clusterid" => Special::ClusterId(axis),
                "nclusterid" => Special::NclusterId(axis),
                "cluster_ctaid" => Special::ClusterCtaid(axis),
                "cluster_nctaid" => Special::ClusterNctaid(axis),
                _ => return None,
            });
        }
        Some(match name {
            "laneid" => Special::LaneId,
            "warpid" => Special::WarpId,
            "nwarpid" => Special::NwarpId,
            "cluster_ctarank" => Special::ClusterCtaid(0),
            "cluster_nctarank" => Special::ClusterNctaid(0),
            "lanemask_eq" => Special::LanemaskEq,
            "lanemask_lt" => Special::LanemaskLt,
            "lanemask_le" => Special::LanemaskLe,
            "lanemask_gt" => Special::LanemaskGt,
            "lanemask_ge" => Special::LanemaskGe,
            "dynamic_smem_size" => Special::DynamicShared,
            "total_smem_size" => Special::TotalShared,
            "smid" | "gridid" => Special::Zero,
            "nsmid" => Special::One,
            _ => return None,
        })
    }
}

/// What an instruction does.
pub(crate) enum Op {
    Alu(Alu),
    Load(Transfer),
    Store(Transfer),
    Atomic(Atomic),
    Branch(usize),
    /// A jump to the target that the register selects.
    BranchTable(Reg, Vec<usize>),
    Exit,
    Trap,
    /// Hints, and what has no effect that the interpreter models.
    Nop,
    /// A count that grows with time.
    Clock(Reg),
    ActiveMask(Reg),
    /// An instruction of all the lanes that a membermask names.
    Collective {
        members: Reg,
        kind: Collective,
    },
    Barrier(Barrier),
    ClusterArrive,
    ClusterWait,
    Fence(Scope),
    CopyAsync(CopyAsync),
    CopyCommit,
    /// Waits until at most that many of the latest groups are pending.
    CopyWait(usize),
}

/// A per-lane computation.
pub(crate) struct Alu {
    pub run: LaneFn,
    pub slots: Slots,
    pub dst: Vec<Reg>,
    pub src: Vec<Reg>,
    pub rule: Rule,
}

/// An address: base register plus offset.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub space: Space,
    pub base: Reg,
    pub offset: i64,
}

/// How far a fence, an atomic or a strong access reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Block,
    Cluster,
    Device,
}

/// What a memory instruction says about order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// Relaxed or more: may meet other such accesses without being a race. Volatile alone is not enough.
    pub strong: bool,
    pub acquire: bool,
    pub release: bool,
    pub scope: Scope,
    /// Through the cache that other threads' writes do not reach (`.nc`).
    pub incoherent: bool,
}

/// A load or a store of one or more registers.
pub(crate) struct Transfer {
    pub at: Address,
    /// The type of one element.
    pub ty: Ty,
    pub regs: Vec<Reg>,
    pub order: Order,
}

/// What an atomic does with the old value and its operands.
pub(crate) type Modify = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// A read-modify-write.
pub(crate) struct Atomic {
    pub at: Address,
    pub ty: Ty,
    pub modify: Modify,
    /// `None` for `red`, which reads nothing that the thread sees.
    pub dst: Option<Reg>,
    pub src: Vec<Reg>,
    pub order: Order,
}

/// The collectives of a warp.
pub(crate) enum Collective {
    Sync,
    Shuffle { mode: Shuffle, dst: Reg, valid: Option<Reg>, value: Reg, lane: Reg, clamp: Reg },
    Vote { mode: Vote, dst: Reg, predicate: Reg },
    Match { all: Option<Reg>, any: bool, dst: Reg, value: Reg },
    Reduce { combine: fn(u32, u32) -> u32, dst: Reg, value: Reg },
    Elect { dst: Reg, elected: Reg },
}

/// Which lane `shfl` reads.
#[derive(Clone, Copy)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What `vote` says.
#[derive(Clone, Copy)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// A barrier of a block.
pub(crate) struct Barrier {
    pub id: Reg,
    /// Threads that take part; all of the block without it.
    pub count: Option<Reg>,
    /// Whether the threads wait.
    pub waits: bool,
    /// Whether all lanes of a warp must arrive together.
    pub aligned: bool,
    /// What the barrier makes of a predicate of each thread.
    pub reduce: Option<(Reduction, Reg, Reg)>,
}

/// The reductions of `bar.red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    And,
    Or,
    Count,
}

/// `cp.async`: bytes from global to shared memory, there at the latest after the matching wait.
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: usize,
    /// Bytes to read; the rest are zero.
    pub source_bytes: Option<Reg>,
}
