//! What the checker reports.

use crate::races::Touch;
use std::fmt;

/// What a kernel did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or outside shared or local memory.
    OutOfBounds,
    /// An access to an allocation that was freed, or to the shared memory of a block that has ended.
    UseAfterFree,
    /// An address that is not a multiple of the width of the access.
    Misaligned,
    /// A result, an address or a decision that depends on a value that nothing wrote.
    Uninitialised,
    /// A write to a read-only allocation, a constant or a parameter.
    ReadOnly,
    /// A load through the incoherent cache (`ld.global.nc`) of bytes that the launch has written.
    Incoherent,
    /// Two threads of a block touch the same shared bytes, one writing, unordered.
    SharedRace,
    /// Two threads touch the same global bytes, one writing, unordered.
    GlobalRace,
    /// A barrier that some of its threads do not reach, or reach elsewhere.
    BarrierDivergence,
    /// A warp instruction that some of the lanes it names do not reach.
    WarpDivergence,
    /// More instructions than the launch allows a warp: probably a loop without end.
    StepBudget,
    /// A grid, block, cluster or argument that the kernel or the architecture does not allow.
    BadLaunch,
    /// More shared memory than the architecture has.
    SharedMemory,
    /// A `trap` instruction.
    Trap,
}

/// Where in the grid a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId {
    /// `blockIdx.x`
    pub block: u32,
    /// `threadIdx`, x running fastest.
    pub thread: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// The thread that did it; `None` where the launch itself is at fault.
    pub thread: Option<ThreadId>,
    /// Line in the PTX text; 0 where the launch itself is at fault.
    pub ptx_line: u32,
    /// File and line of the source, where the PTX says.
    pub source: Option<(String, u32)>,
    /// What exactly, with addresses, names and the other party.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel `{}`", self.kind, self.kernel)?;
        if let Some((file, line)) = &self.source {
            write!(f, " at {file}:{line}")?;
        }
        if self.ptx_line != 0 {
            write!(f, " (PTX line {})", self.ptx_line)?;
        }
        if let Some(ThreadId { block, thread }) = self.thread {
            write!(f, ", block {block} thread {thread}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl std::error::Error for Fault {}

/// A fault before anyone knows whose: an instruction raises it, the warp adds the place.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: usize,
    /// The instruction to name instead of the one that ran.
    pub pc: Option<usize>,
    pub detail: String,
    /// For a race, the other side.
    pub race: Option<Race>,
}

/// What an access found itself unordered with.
#[derive(Debug)]
pub(crate) struct Race {
    /// The bytes.
    pub what: String,
    /// Whether the access itself writes.
    pub write: bool,
    pub other: Touch,
}

impl Trouble {
    pub(crate) fn new(kind: FaultKind, lane: usize, detail: impl Into<String>) -> Self {
        Trouble { kind, lane, pc: None, detail: detail.into(), race: None }
    }

    pub(crate) fn is_race(&self) -> bool {
        self.race.is_some()
    }
}
