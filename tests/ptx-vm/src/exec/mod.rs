//! Runs a launch: its units (blocks, or clusters of blocks) on all cores, in an order drawn from the seed.
//!
//! Units run at once as long as they only read and write. A unit that comes to an atomic, or another strong
//! access to global memory, waits there until all units before it in the order have ended, so that the result
//! is the same as if the units had run one after the other in that order, on any number of cores.

mod access;
mod collective;
mod unit;
mod warp;

use crate::approx::mix;
use crate::clocks::Publications;
use crate::fault::Fault;
use crate::lanes::{LANES, Mask, Row, write_bits};
use crate::memory::Memory;
use crate::program::{Constant, Program, Special};
use crate::stats::KernelStats;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks in a cluster, along x.
    pub cluster: u32,
    pub dynamic_shared: usize,
}

impl Shape {
    pub(crate) fn threads(&self) -> usize {
        self.block.iter().map(|&n| n as usize).product()
    }

    pub(crate) fn warps(&self) -> usize {
        self.threads().div_ceil(LANES)
    }

    pub(crate) fn units(&self) -> usize {
        self.grid.iter().map(|&n| n as usize).product::<usize>() / self.cluster as usize
    }
}

/// All that the units of a launch share.
pub(crate) struct Session<'a> {
    pub program: &'a Program,
    pub files: &'a std::collections::HashMap<u32, String>,
    pub memory: &'a Memory,
    pub shape: Shape,
    /// Addresses of the module's variables.
    pub variables: &'a [u64],
    pub params: u64,
    /// Tells this launch's accesses from those of others.
    pub epoch: u64,
    pub schedule_seed: u64,
    pub approx_seed: u32,
    pub step_budget: u64,
    pub publications: Mutex<Publications>,
    pub turns: Turns,
}

impl Session<'_> {
    /// Where the dynamic shared memory starts.
    pub(crate) fn dynamic_shared_start(&self) -> usize {
        self.program.static_shared.next_multiple_of(16)
    }

    pub(crate) fn shared_bytes(&self) -> usize {
        match self.shape.dynamic_shared {
            0 => self.program.static_shared,
            dynamic => self.dynamic_shared_start() + dynamic,
        }
    }

    /// The registers of a warp before its first instruction; `block` is the linear index.
    fn registers(&self, block: u32, warp: usize) -> Vec<Row> {
        let mut rows = vec![[0; LANES]; self.program.rows];
        for &(reg, constant) in &self.program.constants {
            for lane in 0..LANES {
                write_bits(&mut rows, reg.slot, reg.wide, lane, self.constant(constant, block, warp, lane));
            }
        }
        rows
    }

    fn constant(&self, constant: Constant, block: u32, warp: usize, lane: usize) -> u64 {
        match constant {
            Constant::Bits(bits) => bits,
            Constant::Variable(index, offset) => self.variables[index].wrapping_add_signed(offset),
            Constant::Parameter(offset) => self.params.wrapping_add_signed(offset),
            Constant::DynamicShared(offset) => {
                (self.dynamic_shared_start() as u64).wrapping_add_signed(offset)
            }
            Constant::Seed => u64::from(self.approx_seed),
            Constant::Special(special) => u64::from(self.special(special, block, warp, lane)),
        }
    }

    fn special(&self, special: Special, block: u32, warp: usize, lane: usize) -> u32 {
        let Shape { grid, block: size, cluster, dynamic_shared } = self.shape;
        let split = |linear: u32, of: [u32; 3], axis: u8| match axis {
            0 => linear % of[0],
            1 => linear / of[0] % of[1],
            _ => linear / of[0] / of[1],
        };
        let along_x = |n: u32, axis: u8, other: u32| if axis == 0 { n } else { other };
        let lane_bit: Mask = 1 << lane;
        match special {
            Special::Tid(axis) => split((warp * LANES + lane) as u32, size, axis),
            Special::Ntid(axis) => size[axis as usize],
            Special::Ctaid(axis) => split(block, grid, axis),
            Special::Nctaid(axis) => grid[axis as usize],
            Special::ClusterId(axis) => {
                let id = split(block, grid, axis);
                along_x(id / cluster, axis, id)
            }
            Special::NclusterId(axis) => along_x(grid[0] / cluster, axis, grid[axis as usize]),
            Special::ClusterCtaid(axis) => along_x(block % cluster, axis, 0),
            Special::ClusterNctaid(axis) => along_x(cluster, axis, 1),
            Special::LaneId => lane as u32,
            Special::WarpId => warp as u32,
            Special::NwarpId => self.shape.warps() as u32,
            Special::LanemaskEq => lane_bit,
            Special::LanemaskLt => lane_bit - 1,
            Special::LanemaskLe => lane_bit | (lane_bit - 1),
            Special::LanemaskGt => !(lane_bit | (lane_bit - 1)),
            Special::LanemaskGe => !(lane_bit - 1),
            Special::DynamicShared => dynamic_shared as u32,
            Special::TotalShared => self.shared_bytes() as u32,
            Special::Zero => 0,
            Special::One => 1,
        }
    }

    pub(crate) fn publications(&self) -> MutexGuard<'_, Publications> {
        self.publications.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order of the units: who may do what the order of is visible.
pub(crate) struct Turns {
    /// The unit at each position.
    order: Vec<u32>,
    position_of: Vec<usize>,
    next: AtomicUsize,
    progress: Mutex<Progress>,
    changed: Condvar,
}

struct Progress {
    ended: Vec<bool>,
    /// Positions before it have ended.
    frontier: usize,
    /// The fault of the earliest position.
    fault: Option<(usize, Box<Fault>)>,
    stats: KernelStats,
}

/// A unit stops without a finding: one before it has one.
pub(crate) struct Cancelled;

impl Turns {
    pub(crate) fn new(units: usize, seed: u64) -> Self {
        let mut order: Vec<u32> = (0..units as u32).collect();
        if seed != 0 {
            shuffle(&mut order, seed);
        }
        let mut position_of = vec![0; units];
        for (position, &unit) in order.iter().enumerate() {
            position_of[unit as usize] = position;
        }
        let progress =
            Progress { ended: vec![false; units], frontier: 0, fault: None, stats: KernelStats::default() };
        Turns {
            order,
            position_of,
            next: AtomicUsize::new(0),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all units before the position have ended.
    pub(crate) fn wait(&self, position: usize) -> Result<(), Cancelled> {
        let mut progress = self.lock();
        loop {
            if progress.is_void(position) {
                return Err(Cancelled);
            }
            if progress.frontier >= position {
                return Ok(());
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An error where a unit before the position has a fault, and so this one's work is void.
    pub(crate) fn check(&self, position: usize) -> Result<(), Cancelled> {
        if self.lock().is_void(position) { Err(Cancelled) } else { Ok(()) }
    }

    fn end(&self, position: usize, fault: Option<(u32, Box<Fault>)>, stats: &KernelStats) {
        let mut progress = self.lock();
        progress.stats.merge(stats);
        progress.ended[position] = true;
        while progress.ended.get(progress.frontier) == Some(&true) {
            progress.frontier += 1;
        }
        if let Some((unit, fault)) = fault {
            let at = self.position_of[unit as usize];
            if progress.fault.as_ref().is_none_or(|(earliest, _)| at < *earliest) {
                progress.fault = Some((at, fault));
            }
        }
        drop(progress);
        self.changed.notify_all();
    }

    /// Whether that unit comes later in the order.
    pub(crate) fn is_later(&self, unit: u32, than: usize) -> bool {
        self.position_of[unit as usize] > than
    }
}

impl Progress {
    fn is_void(&self, position: usize) -> bool {
        self.fault.as_ref().is_some_and(|(at, _)| *at < position)
    }
}

/// Ends the unit of a thread that panics, so that the others do not wait for it for ever.
struct Ending<'t> {
    turns: &'t Turns,
    position: usize,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.turns.end(self.position, None, &KernelStats::default());
    }
}

/// Permutes by the seed.
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = mix(state);
        items.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

/// Runs all units on that many threads.
pub(crate) fn run(session: &Session<'_>, threads: usize) -> Result<KernelStats, Box<Fault>> {
    let turns = &session.turns;
    let work = || {
        loop {
            let position = turns.next.fetch_add(1, Ordering::Relaxed);
            let Some(&index) = turns.order.get(position) else { break };
            if turns.check(position).is_err() {
                break;
            }
            let ending = Ending { turns, position };
            let (stats, fault) = unit::Unit::new(session, index, position).run();
            std::mem::forget(ending);
            turns.end(position, fault, &stats);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(turns.order.len()) {
            scope.spawn(work);
        }
        work();
    });
    let progress = std::mem::replace(
        &mut *turns.lock(),
        Progress { ended: Vec::new(), frontier: 0, fault: None, stats: KernelStats::default() },
    );
    match progress.fault {
        Some((_, fault)) => Err(fault),
        None => Ok(KernelStats { launches: 1, ..progress.stats }),
    }
}
