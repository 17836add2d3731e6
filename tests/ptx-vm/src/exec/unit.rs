//! A unit: the blocks that run together (one, or a cluster), their shared memory and barriers, and the
//! schedule of their warps.

use super::warp::Warp;
use super::{Session, shuffle};
use crate::approx::mix;
use crate::clocks::{Clocks, Join};
use crate::fault::{Fault, FaultKind, Race, ThreadId, Trouble};
use crate::lanes::{LANES, Mask};
use crate::memory::Bytes;
use crate::program::Reduction;
use crate::races::Shadow;
use crate::stats::KernelStats;

/// Barriers of a block.
const BARRIERS: usize = 16;

/// Shared memory and barriers of a block.
pub(super) struct Block {
    pub shared: Bytes,
    pub shadow: Shadow,
    /// Threads that have not ended.
    pub live: usize,
    barriers: [BarrierState; BARRIERS],
}

/// A barrier between its first arrival and its completion.
#[derive(Default)]
struct BarrierState {
    arrived: usize,
    /// The instruction at which the first thread arrived, and how many it expects.
    expects: Option<(usize, usize)>,
    join: Join,
    waiting: Vec<usize>,
    true_count: u32,
}

/// The barrier of a cluster.
#[derive(Default)]
struct ClusterBarrier {
    phase: u32,
    arrived: usize,
    join: Join,
    /// What the warps of the last completed phase did.
    passed: Join,
}

/// What the blocks of a unit share, without their warps.
pub(super) struct Common<'a> {
    pub session: &'a Session<'a>,
    pub index: u32,
    pub position: usize,
    pub blocks: Vec<Block>,
    pub clocks: Clocks,
    pub stats: KernelStats,
    cluster: ClusterBarrier,
    /// Warps whose barrier is complete, and what its reduction says.
    released: Vec<(usize, usize, u32)>,
    has_turn: bool,
}

/// An arrival of lanes at a barrier of their block.
pub(super) struct Arrival {
    pub pc: usize,
    pub id: u64,
    pub threads: Option<u64>,
    pub waits: bool,
    pub mask: Mask,
    /// Lanes whose predicate is true.
    pub predicate: Mask,
    pub reduction: Option<Reduction>,
}

pub(super) struct Unit<'a> {
    common: Common<'a>,
    warps: Vec<Warp>,
}

/// One side of a race: unit, warp, lane, instruction.
type Party = (u32, usize, usize, usize);

/// Why a unit stops early.
pub(super) enum Stop {
    Fault(Trouble),
    Cancelled,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Stop::Fault(trouble)
    }
}

impl From<super::Cancelled> for Stop {
    fn from(_: super::Cancelled) -> Self {
        Stop::Cancelled
    }
}

impl<'a> Unit<'a> {
    pub(super) fn new(session: &'a Session<'a>, index: u32, position: usize) -> Self {
        let (cluster, warps) = (session.shape.cluster, session.shape.warps());
        let block = || Block {
            shared: Bytes::uninitialised(session.shared_bytes()),
            shadow: Shadow::default(),
            live: session.shape.threads(),
            barriers: Default::default(),
        };
        let stats = KernelStats { issued: vec![0; session.program.instructions.len()], ..Default::default() };
        let common = Common {
            session,
            index,
            position,
            blocks: (0..cluster).map(|_| block()).collect(),
            clocks: Clocks::new(index, warps * cluster as usize),
            stats,
            cluster: ClusterBarrier::default(),
            released: Vec::new(),
            has_turn: false,
        };
        let warps = (0..cluster as usize * warps)
            .map(|warp| {
                let (rank, within) = (warp / warps, warp % warps);
                let live = (session.shape.threads() - within * LANES).min(LANES);
                let mask = Mask::MAX >> (LANES - live);
                let rows = session.registers(index * cluster + rank as u32, within);
                Warp::new(session.program, rows, warp, rank, mask)
            })
            .collect();
        Unit { common, warps }
    }

    /// Runs to the end. The fault comes with the unit that it belongs to.
    pub(super) fn run(mut self) -> (KernelStats, Option<(u32, Box<Fault>)>) {
        let fault = match self.schedule() {
            Ok(()) => {
                self.common.stats.blocks = u64::from(self.common.session.shape.cluster);
                None
            }
            Err((_, Stop::Cancelled)) => None,
            Err((warp, Stop::Fault(trouble))) => Some(self.locate(warp, trouble)),
        };
        (self.common.stats, fault)
    }

    /// Lets the warps take turns, in an order and for lengths that the seed gives.
    fn schedule(&mut self) -> Result<(), (usize, Stop)> {
        let seed = self.common.session.schedule_seed;
        let mut random = mix(seed ^ u64::from(self.common.index) << 32);
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        // A value may be missing because the warp that writes it has not come to that. If it comes, and without
        // a barrier, the finding is the race and not the missing value: so the others go on.
        let mut missing: Option<(usize, Trouble)> = None;
        loop {
            let (mut ran, mut ended) = (false, true);
            if seed != 0 {
                random = mix(random);
                shuffle(&mut order, random);
            }
            for &warp in &order {
                // Long enough to be fast, short enough for warps that wait for one another.
                let slice = if seed == 0 { 1 << 14 } else { 16 + mix(random ^ warp as u64) % 1024 };
                match self.warps[warp].run(&mut self.common, slice) {
                    Ok(slice) => {
                        ran |= slice.moved;
                        ended &= slice.ended;
                    }
                    Err(Stop::Fault(trouble)) if trouble.kind == FaultKind::Uninitialised => {
                        missing.get_or_insert((warp, trouble));
                        self.warps[warp].halt();
                        ran = true;
                    }
                    Err(Stop::Fault(trouble)) if !trouble.is_race() && missing.is_some() => {
                        self.warps[warp].halt();
                    }
                    Err(stop) => return Err((warp, stop)),
                }
            }
            for (warp, barrier, result) in std::mem::take(&mut self.common.released) {
                ran = true;
                self.warps[warp].release(self.common.session.program, barrier, result);
            }
            if ended || !ran {
                return match missing {
                    Some((warp, trouble)) => Err((warp, trouble.into())),
                    None if ended => Ok(()),
                    None => Err(self.deadlock()),
                };
            }
            self.common.session.turns.check(self.common.position).map_err(|stop| (0, stop.into()))?;
        }
    }

    /// No warp can go on: the earliest instruction that lanes wait at is the one that others do not reach.
    fn deadlock(&self) -> (usize, Stop) {
        let waiting = self.warps.iter().enumerate().filter_map(|(warp, w)| Some((w.waiting_at()?, warp)));
        // There is one, or the unit would have ended.
        let ((_, pc, mask), warp) =
            waiting.min_by_key(|((parked, pc, _), _)| (!parked, *pc)).unwrap_or_default();
        let program = self.common.session.program;
        let elsewhere: Vec<String> = self
            .warps
            .iter()
            .enumerate()
            .filter_map(|(index, w)| {
                w.describe_elsewhere(program, pc).map(|text| format!("warp {index}: {text}"))
            })
            .take(4)
            .collect();
        let collective = matches!(program.instructions[pc].op, crate::program::Op::Collective { .. });
        let kind = if collective { FaultKind::WarpDivergence } else { FaultKind::BarrierDivergence };
        let detail = format!(
            "lanes {mask:#010x} of the warp wait for threads that never come ({})",
            elsewhere.join("; ")
        );
        let trouble = Trouble { pc: Some(pc), ..Trouble::new(kind, mask.trailing_zeros() as usize, detail) };
        (warp, trouble.into())
    }

    /// Adds kernel, thread and place.
    fn locate(&self, warp: usize, trouble: Trouble) -> (u32, Box<Fault>) {
        let session = self.common.session;
        let mine = (self.common.index, warp, trouble.lane, trouble.pc.unwrap_or(self.warps[warp].pc()));
        let mut named = mine;
        let mut owner = self.common.index;
        if let Some(Race { other, write, .. }) = trouble.race {
            let lane = other.lanes(u16::MAX).trailing_zeros() as usize;
            let theirs = (other.unit, usize::from(other.warp), lane, other.pc as usize);
            // Either party may find a race. Whoever does, it is named after the read, or the write further down.
            if (!other.write, theirs.3) > (!write, mine.3) {
                named = theirs;
            }
            // And it belongs to the unit that comes later in the order.
            if session.turns.is_later(other.unit, self.common.position) {
                owner = other.unit;
            }
        }
        let (unit, warp, lane, pc) = named;
        let detail = match &trouble.race {
            Some(race) => self.describe(
                race,
                [mine, (race.other.unit, usize::from(race.other.warp), 0, race.other.pc as usize)],
            ),
            None => trouble.detail,
        };
        let warps = session.shape.warps();
        let instruction = &session.program.instructions[pc];
        let source = instruction.source.map(|(file, line)| {
            (session.files.get(&file).cloned().unwrap_or_else(|| format!("file {file}")), line)
        });
        let fault = Fault {
            kind: trouble.kind,
            kernel: session.program.name.clone(),
            thread: Some(ThreadId {
                block: unit * session.shape.cluster + (warp / warps) as u32,
                thread: (warp % warps * LANES + lane) as u32,
            }),
            ptx_line: instruction.line,
            source,
            detail,
        };
        (owner, Box::new(fault))
    }

    /// Says who races with whom.
    fn describe(&self, race: &Race, parties: [Party; 2]) -> String {
        let session = self.common.session;
        let warps = session.shape.warps();
        let party = |(unit, warp, _, pc): Party, write: bool| {
            let verb = if write { "written" } else { "read" };
            let block = unit * session.shape.cluster + (warp / warps) as u32;
            let instruction = &session.program.instructions[pc];
            let line = instruction.source.map_or(String::new(), |(_, line)| format!(", source line {line}"));
            format!("{verb} by block {block} warp {} (PTX line {}{line})", warp % warps, instruction.line)
        };
        let [mine, theirs] = parties;
        format!(
            "{} {}, unordered with being {}",
            race.what,
            party(mine, race.write),
            party(theirs, race.other.write)
        )
    }
}

impl Common<'_> {
    /// Waits until this unit may do what the order of units is visible in.
    pub(super) fn take_turn(&mut self) -> Result<(), Stop> {
        if !self.has_turn {
            self.session.turns.wait(self.position)?;
            self.has_turn = true;
        }
        Ok(())
    }

    /// Lanes arrive at a barrier of their block.
    pub(super) fn arrive(&mut self, warp: usize, rank: usize, arrival: Arrival) -> Result<(), Trouble> {
        let lane = arrival.mask.trailing_zeros() as usize;
        let fault = |detail: String| Err(Trouble::new(FaultKind::BarrierDivergence, lane, detail));
        let all = self.session.shape.threads();
        let Some(state) = self.blocks[rank].barriers.get_mut(arrival.id as usize) else {
            return fault(format!("barrier {} does not exist", arrival.id));
        };
        let threads = arrival.threads.map_or(all, |threads| threads as usize);
        if threads == 0 || (arrival.threads.is_some() && !threads.is_multiple_of(LANES)) {
            return fault(format!("a barrier for {threads} threads, which are no whole warps"));
        }
        let (pc, expected) = *state.expects.get_or_insert((arrival.pc, threads));
        if expected != threads {
            return fault(format!("the barrier expects {expected} threads here and {threads} there"));
        }
        if arrival.threads.is_none() && pc != arrival.pc {
            let line = self.session.program.instructions[pc].line;
            return fault(format!("other threads of the block are at the barrier of PTX line {line}"));
        }
        state.arrived += arrival.mask.count_ones() as usize;
        state.true_count += arrival.predicate.count_ones();
        self.clocks.arrive(warp, &mut state.join);
        if arrival.waits {
            state.waiting.push(warp);
        }
        if state.arrived < expected {
            return Ok(());
        }
        let done = std::mem::take(state);
        let result = match arrival.reduction {
            Some(Reduction::And) => u32::from(done.true_count as usize == expected),
            Some(Reduction::Or) => u32::from(done.true_count > 0),
            Some(Reduction::Count) => done.true_count,
            None => 0,
        };
        for warp in done.waiting {
            self.clocks.pass(warp, &done.join);
            self.released.push((warp, arrival.id as usize, result));
        }
        Ok(())
    }

    /// Lanes arrive at the barrier of the cluster; the result is the phase whose end they may wait for.
    pub(super) fn arrive_cluster(&mut self, warp: usize, mask: Mask) -> u32 {
        let threads = self.session.shape.threads() * self.blocks.len();
        let barrier = &mut self.cluster;
        self.clocks.arrive(warp, &mut barrier.join);
        barrier.arrived += mask.count_ones() as usize;
        let phase = barrier.phase;
        if barrier.arrived == threads {
            barrier.phase += 1;
            barrier.arrived = 0;
            barrier.passed = std::mem::take(&mut barrier.join);
        }
        phase
    }

    /// Whether the phase has ended; if so, the warp learns of what was before.
    pub(super) fn pass_cluster(&mut self, warp: usize, phase: u32) -> bool {
        let passed = self.cluster.phase > phase;
        if passed {
            self.clocks.pass(warp, &self.cluster.passed);
        }
        passed
    }
}
