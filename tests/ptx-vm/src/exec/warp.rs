//! A warp: its registers, which lanes are where, and the step from one instruction to the next.
//!
//! Lanes that are at the same instruction form a group. The ready group that is furthest back runs; groups
//! meet where one reaches another's instruction. A group at an instruction that needs more lanes is parked
//! until they come.

use super::unit::{Arrival, Common, Stop};
use crate::fault::{FaultKind, Trouble};
use crate::isa::Rule;
use crate::lanes::{LANES, Mask, Row, Slot, lanes, predicate, read_bits, write_bits};
use crate::memory::Bytes;
use crate::program::{Alu, Barrier, Instruction, Op, Program, Reg};

/// What the lanes of a group are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// At an instruction that waits for other lanes of the warp.
    Parked,
    /// At that barrier of the block.
    AtBarrier(usize),
    /// At the barrier of the cluster, for the end of that phase.
    AtCluster(u32),
}

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug)]
struct Group {
    pc: usize,
    mask: Mask,
    state: State,
}

/// How a slice of a warp went.
pub(super) struct Slice {
    /// Whether it executed anything.
    pub moved: bool,
    /// Whether all lanes have ended.
    pub ended: bool,
}

/// Where the group that executed an instruction goes.
pub(super) enum Flow {
    Next,
    Jump(usize),
    /// These lanes jump, the others go on.
    Split(Mask, usize),
    /// Each of the lanes goes to its own target.
    Scatter(Vec<(Mask, usize)>),
    End(Mask),
    /// Those lanes go on, the others stay.
    Advance(Mask),
    Wait(Mask, usize),
    WaitCluster(Mask, u32),
}

/// Bytes of a `cp.async` on their way.
pub(super) struct Copy {
    pub shared: usize,
    pub data: Vec<(u64, u64)>,
}

pub(super) struct Warp {
    /// Within the unit.
    pub index: usize,
    /// Of its block within the cluster.
    pub rank: usize,
    pub rows: Vec<Row>,
    /// The undefined bits of each register; they count in the lanes that `suspect` names.
    pub undefined: Vec<Row>,
    /// By slot, the lanes in which some bit of the register is undefined.
    pub suspect: Vec<Mask>,
    /// By slot, the instruction that brought an undefined value there.
    origin: Vec<u32>,
    /// Local memory, lane after lane.
    pub local: Bytes,
    /// Lanes that there were at the start, and those that have not ended.
    pub born: Mask,
    pub live: Mask,
    groups: Vec<Group>,
    pc: usize,
    steps: u64,
    cluster_phase: u32,
    /// Groups of asynchronous copies, the last one still open.
    pub copies: Vec<Vec<Copy>>,
}

/// The origin of a register that nothing wrote.
const NEVER: u32 = u32::MAX;

impl Warp {
    pub(super) fn new(program: &Program, rows: Vec<Row>, index: usize, rank: usize, live: Mask) -> Self {
        let mut suspect = vec![Mask::MAX; rows.len()];
        for (reg, _) in &program.constants {
            suspect[reg.slot as usize] = 0;
        }
        Warp {
            index,
            rank,
            undefined: vec![[u32::MAX; LANES]; rows.len()],
            origin: vec![NEVER; rows.len()],
            rows,
            suspect,
            local: Bytes::uninitialised(program.local_bytes * LANES),
            born: live,
            live,
            groups: vec![Group { pc: 0, mask: live, state: State::Ready }],
            pc: 0,
            steps: 0,
            cluster_phase: 0,
            copies: vec![Vec::new()],
        }
    }

    /// The instruction that ran last.
    pub(super) fn pc(&self) -> usize {
        self.pc
    }

    /// Runs until the warp has ended, waits, or has executed about `slice` instructions.
    pub(super) fn run(&mut self, common: &mut Common<'_>, slice: u64) -> Result<Slice, Stop> {
        let started = self.steps;
        let limit = started + slice;
        self.poll_cluster(common);
        loop {
            let ready = self.groups.iter().enumerate().filter(|(_, group)| group.state == State::Ready);
            let Some((index, _)) = ready.min_by_key(|(_, group)| group.pc) else { break };
            if self.steps >= limit {
                break;
            }
            let group = self.groups.swap_remove(index);
            self.advance(common, group, limit)?;
        }
        Ok(Slice { moved: self.steps > started, ended: self.groups.is_empty() })
    }

    /// Ends all lanes where they are.
    pub(super) fn halt(&mut self) {
        self.groups.clear();
    }

    /// Runs one group until it jumps among others, waits or ends.
    fn advance(&mut self, common: &mut Common<'_>, mut group: Group, limit: u64) -> Result<(), Stop> {
        let session = common.session;
        let program = session.program;
        let mut meets = self.next_meeting(group.pc);
        loop {
            if group.pc >= meets {
                self.merge(&mut group);
                meets = self.next_meeting(group.pc);
            }
            self.pc = group.pc;
            self.steps += 1;
            common.stats.instructions += u64::from(group.mask.count_ones());
            common.stats.issued[group.pc] += 1;
            let instruction = &program.instructions[group.pc];
            common.stats.executed += u64::from(!instruction.folded);
            match self.execute(common, instruction, group.mask)? {
                Flow::Next => group.pc += 1,
                Flow::Jump(target) => {
                    group.pc = target;
                    if self.steps > session.step_budget {
                        let detail = format!("a warp has executed {} instructions", self.steps);
                        let lane = group.mask.trailing_zeros() as usize;
                        return Err(Trouble::new(FaultKind::StepBudget, lane, detail).into());
                    }
                    if !self.groups.is_empty() || self.steps >= limit {
                        return self.leave(group.pc, group.mask, State::Ready);
                    }
                }
                Flow::Split(taken, target) => {
                    self.groups.push(Group { pc: target, mask: taken, state: State::Ready });
                    return self.leave(group.pc + 1, group.mask & !taken, State::Ready);
                }
                Flow::Scatter(targets) => {
                    for (mask, target) in targets {
                        self.leave(target, mask, State::Ready)?;
                    }
                    return Ok(());
                }
                Flow::End(mask) => {
                    self.live &= !mask;
                    common.blocks[self.rank].live -= mask.count_ones() as usize;
                    return self.leave(group.pc + 1, group.mask & !mask, State::Ready);
                }
                Flow::Advance(mask) if mask == group.mask => group.pc += 1,
                Flow::Advance(mask) => {
                    self.leave(group.pc + 1, mask, State::Ready)?;
                    return self.leave(group.pc, group.mask & !mask, State::Parked);
                }
                Flow::Wait(mask, barrier) => {
                    self.leave(group.pc + 1, group.mask & !mask, State::Ready)?;
                    return self.leave(group.pc, mask, State::AtBarrier(barrier));
                }
                Flow::WaitCluster(mask, phase) => {
                    self.leave(group.pc + 1, group.mask & !mask, State::Ready)?;
                    return self.leave(group.pc, mask, State::AtCluster(phase));
                }
            }
        }
    }

    /// Leaves lanes at an instruction.
    fn leave(&mut self, pc: usize, mask: Mask, state: State) -> Result<(), Stop> {
        if mask != 0 {
            self.groups.push(Group { pc, mask, state });
        }
        Ok(())
    }

    fn is_mergeable(group: &Group) -> bool {
        matches!(group.state, State::Ready | State::Parked)
    }

    /// The nearest instruction from `pc` on at which other lanes are.
    fn next_meeting(&self, pc: usize) -> usize {
        let others = self.groups.iter().filter(|group| Self::is_mergeable(group) && group.pc >= pc);
        others.map(|group| group.pc).min().unwrap_or(usize::MAX)
    }

    fn merge(&mut self, group: &mut Group) {
        self.groups.retain(|other| {
            let joins = other.pc == group.pc && Self::is_mergeable(other);
            group.mask |= if joins { other.mask } else { 0 };
            !joins
        });
    }

    /// A barrier of the block that lanes of this warp wait at is complete.
    pub(super) fn release(&mut self, program: &Program, barrier: usize, result: u32) {
        for index in 0..self.groups.len() {
            let group = self.groups[index];
            if group.state != State::AtBarrier(barrier) {
                continue;
            }
            if let Op::Barrier(Barrier { reduce: Some((_, dst, _)), .. }) = &program.instructions[group.pc].op
            {
                for lane in lanes(group.mask) {
                    self.set(*dst, lane, u64::from(result), 0);
                }
            }
            self.groups[index] = Group { pc: group.pc + 1, state: State::Ready, ..group };
        }
    }

    fn poll_cluster(&mut self, common: &mut Common<'_>) {
        for group in &mut self.groups {
            if let State::AtCluster(phase) = group.state
                && common.pass_cluster(self.index, phase)
            {
                *group = Group { pc: group.pc + 1, state: State::Ready, ..*group };
            }
        }
    }

    /// Where lanes wait: whether for lanes of their own warp, the instruction, and which.
    pub(super) fn waiting_at(&self) -> Option<(bool, usize, Mask)> {
        let waiting = self.groups.iter().map(|group| (group.state == State::Parked, group.pc, group.mask));
        waiting.min_by_key(|(parked, pc, _)| (!parked, *pc))
    }

    /// Where the lanes are that are not at the instruction.
    pub(super) fn describe_elsewhere(&self, program: &Program, pc: usize) -> Option<String> {
        if self.groups.is_empty() {
            return Some("has ended".to_owned());
        }
        let elsewhere = self.groups.iter().filter(|group| group.pc != pc);
        let places: Vec<String> = elsewhere
            .map(|group| {
                format!("lanes {:#010x} at PTX line {}", group.mask, program.instructions[group.pc].line)
            })
            .collect();
        (!places.is_empty()).then(|| places.join(", "))
    }

    fn execute(
        &mut self,
        common: &mut Common<'_>,
        instruction: &Instruction,
        active: Mask,
    ) -> Result<Flow, Stop> {
        let mask = match instruction.guard {
            None => active,
            Some((slot, negated)) => {
                self.require_defined(Reg { slot, wide: false }, active, "a predicate")?;
                let holds = predicate(&self.rows, slot);
                active & if negated { !holds } else { holds }
            }
        };
        if mask == 0 {
            return Ok(Flow::Next);
        }
        match &instruction.op {
            Op::Alu(alu) => self.compute(alu, mask),
            Op::Load(load) => self.load(common, load, mask)?,
            Op::Store(store) => self.store(common, store, mask)?,
            Op::Atomic(atomic) => self.atomic(common, atomic, mask)?,
            Op::Branch(target) if mask == active => return Ok(Flow::Jump(*target)),
            Op::Branch(target) => return Ok(Flow::Split(mask, *target)),
            Op::BranchTable(index, targets) => return self.branch_table(*index, targets, mask, active),
            Op::Exit => return Ok(Flow::End(mask)),
            Op::Trap => {
                let lane = mask.trailing_zeros() as usize;
                return Err(Trouble::new(FaultKind::Trap, lane, "a trap").into());
            }
            Op::Nop => {}
            Op::Clock(dst) => {
                for lane in lanes(mask) {
                    self.set(*dst, lane, self.steps, 0);
                }
            }
            Op::ActiveMask(dst) => {
                for lane in lanes(mask) {
                    self.set(*dst, lane, u64::from(mask), 0);
                }
            }
            Op::Collective { members, kind } => {
                let done = self.collective(common, *members, kind, mask)?;
                return Ok(if done == mask {
                    Flow::Advance(active)
                } else {
                    Flow::Advance(done | active & !mask)
                });
            }
            Op::Barrier(barrier) => return self.barrier(common, barrier, mask, active),
            Op::ClusterArrive => self.cluster_phase = common.arrive_cluster(self.index, mask),
            Op::ClusterWait => {
                if !common.pass_cluster(self.index, self.cluster_phase) {
                    return Ok(Flow::WaitCluster(mask, self.cluster_phase));
                }
            }
            Op::Fence(scope) => {
                if *scope == crate::program::Scope::Device {
                    common.clocks.fence(self.index, mask, self.live);
                }
            }
            Op::CopyAsync(copy) => self.copy_async(common, copy, mask)?,
            Op::CopyCommit => self.copies.push(Vec::new()),
            Op::CopyWait(pending) => self.copy_wait(common, *pending)?,
        }
        Ok(Flow::Next)
    }

    fn branch_table(
        &mut self,
        index: Reg,
        targets: &[usize],
        mask: Mask,
        active: Mask,
    ) -> Result<Flow, Stop> {
        self.require_defined(index, mask, "the index of a branch")?;
        let mut scattered: Vec<(Mask, usize)> = vec![(active & !mask, self.pc + 1)];
        for lane in lanes(mask) {
            let index = self.get(index, lane) as usize;
            let Some(&target) = targets.get(index) else {
                let detail = format!("branch target {index} of {}", targets.len());
                return Err(Trouble::new(FaultKind::OutOfBounds, lane, detail).into());
            };
            match scattered.iter_mut().find(|(_, to)| *to == target) {
                Some((mask, _)) => *mask |= 1 << lane,
                None => scattered.push((1 << lane, target)),
            }
        }
        Ok(Flow::Scatter(scattered))
    }

    fn barrier(
        &mut self,
        common: &mut Common<'_>,
        barrier: &Barrier,
        mask: Mask,
        active: Mask,
    ) -> Result<Flow, Stop> {
        if barrier.aligned && mask != self.live {
            return Ok(Flow::Advance(active & !mask));
        }
        let first = mask.trailing_zeros() as usize;
        self.require_defined(barrier.id, mask, "the number of a barrier")?;
        let mut predicate_mask = 0;
        if let Some((_, _, source)) = barrier.reduce {
            self.require_defined(source, mask, "the predicate of a barrier")?;
            predicate_mask = predicate(&self.rows, source.slot) & mask;
        }
        let id = self.get(barrier.id, first);
        let threads = match barrier.count {
            None => None,
            Some(count) => {
                self.require_defined(count, mask, "the thread count of a barrier")?;
                Some(self.get(count, first))
            }
        };
        let arrival = Arrival {
            pc: self.pc,
            id,
            threads,
            waits: barrier.waits,
            mask,
            predicate: predicate_mask,
            reduction: barrier.reduce.map(|(reduction, _, _)| reduction),
        };
        common.arrive(self.index, self.rank, arrival)?;
        Ok(if barrier.waits { Flow::Wait(mask, id as usize) } else { Flow::Next })
    }

    /// Computes lane by lane; undefined bits take the slow way.
    #[inline]
    fn compute(&mut self, alu: &Alu, mask: Mask) {
        let suspect = alu.src.iter().fold(0, |all, reg| all | self.suspect[reg.slot as usize]) & mask;
        if suspect != 0 {
            self.compute_undefined(alu, mask, suspect);
        } else {
            for reg in &alu.dst {
                self.suspect[reg.slot as usize] &= !mask;
            }
        }
        (alu.run)(&mut self.rows, &alu.slots, mask);
    }

    /// Finds the undefined bits of the results, before the results themselves overwrite a source.
    #[cold]
    fn compute_undefined(&mut self, alu: &Alu, mask: Mask, suspect: Mask) {
        let first = alu.src.iter().find(|reg| self.suspect[reg.slot as usize] & suspect != 0);
        let origin = first.map_or(NEVER, |reg| self.origin[reg.slot as usize]);
        let origin = if origin == NEVER { self.pc as u32 } else { origin };
        let steering = |index: usize| matches!(alu.rule, Rule::Moves(moved) if moved >> index & 1 == 0);
        let poisoned = match alu.rule {
            Rule::Poison => suspect,
            Rule::Logic(_) => 0,
            Rule::Moves(_) => {
                let steer = alu.src.iter().enumerate().filter(|(index, _)| steering(*index));
                steer.fold(0, |all, (_, reg)| all | self.suspect[reg.slot as usize]) & suspect
            }
        };
        match alu.rule {
            Rule::Poison => {}
            Rule::Logic(table) => self.undefined_logic(alu, table, suspect),
            Rule::Moves(_) => {
                // The instruction itself moves the bits; its steering operands keep their values.
                let mut saved: Vec<(usize, Row)> = Vec::new();
                for (index, reg) in alu.src.iter().enumerate() {
                    for slot in slots_of(*reg) {
                        if steering(index) {
                            saved.push((slot, self.undefined[slot]));
                            self.undefined[slot] = self.rows[slot];
                        } else {
                            let row = &mut self.undefined[slot];
                            let defined = !self.suspect[reg.slot as usize];
                            lanes(defined).for_each(|lane| row[lane] = 0);
                        }
                    }
                }
                (alu.run)(&mut self.undefined, &alu.slots, mask);
                let results: Vec<usize> = alu.dst.iter().copied().flat_map(slots_of).collect();
                for (slot, row) in saved.into_iter().filter(|(slot, _)| !results.contains(slot)) {
                    self.undefined[slot] = row;
                }
            }
        }
        for reg in &alu.dst {
            for lane in lanes(mask) {
                if poisoned >> lane & 1 != 0 {
                    write_bits(&mut self.undefined, reg.slot, reg.wide, lane, u64::MAX);
                }
                let bits = match suspect >> lane & 1 {
                    0 => 0,
                    _ => read_bits(&self.undefined, reg.slot, reg.wide, lane),
                };
                self.mark(*reg, lane, bits, origin);
            }
        }
    }

    /// A bit of the result is undefined where both values are possible.
    fn undefined_logic(&mut self, alu: &Alu, table: u8, suspect: Mask) {
        for lane in lanes(suspect) {
            let operand = |index: usize| match alu.src.get(index) {
                Some(reg) => (self.get(*reg, lane), self.undefined_bits(*reg, lane)),
                None => (0, 0),
            };
            let operands = [operand(0), operand(1), operand(2)];
            let (mut may_be_one, mut may_be_zero) = (0, 0);
            for row in 0..8 {
                let possible =
                    operands.iter().enumerate().fold(u64::MAX, |all, (index, (value, undefined))| {
                        let one = row >> (2 - index) & 1 != 0;
                        all & (undefined | if one { *value } else { !value })
                    });
                if table >> row & 1 != 0 {
                    may_be_one |= possible;
                } else {
                    may_be_zero |= possible;
                }
            }
            for reg in &alu.dst {
                write_bits(&mut self.undefined, reg.slot, reg.wide, lane, may_be_one & may_be_zero);
            }
        }
    }

    /// One lane's value of a register.
    #[inline(always)]
    pub(super) fn get(&self, reg: Reg, lane: usize) -> u64 {
        read_bits(&self.rows, reg.slot, reg.wide, lane)
    }

    /// The undefined bits of one lane of a register.
    #[inline(always)]
    pub(super) fn undefined_bits(&self, reg: Reg, lane: usize) -> u64 {
        if self.suspect[reg.slot as usize] >> lane & 1 == 0 {
            return 0;
        }
        read_bits(&self.undefined, reg.slot, reg.wide, lane)
    }

    /// Sets one lane of a register, with its undefined bits.
    #[inline(always)]
    pub(super) fn set(&mut self, reg: Reg, lane: usize, value: u64, undefined: u64) {
        write_bits(&mut self.rows, reg.slot, reg.wide, lane, value);
        if undefined == 0 {
            self.suspect[reg.slot as usize] &= !(1 << lane);
        } else {
            write_bits(&mut self.undefined, reg.slot, reg.wide, lane, undefined);
            self.mark(reg, lane, undefined, self.pc as u32);
        }
    }

    /// Notes whether a lane of a register has undefined bits, and since which instruction.
    fn mark(&mut self, reg: Reg, lane: usize, undefined: u64, origin: u32) {
        let slot = reg.slot as usize;
        if undefined == 0 {
            self.suspect[slot] &= !(1 << lane);
        } else {
            self.suspect[slot] |= 1 << lane;
            self.origin[slot] = origin;
        }
    }

    /// A fault if one of the lanes' values is not defined and yet `use_` depends on it. The fault names the
    /// instruction that the undefined value comes from.
    #[inline]
    pub(super) fn require_defined(&self, reg: Reg, mask: Mask, use_: &str) -> Result<(), Trouble> {
        let suspect = self.suspect[reg.slot as usize] & mask;
        if suspect == 0 {
            return Ok(());
        }
        Err(self.undefined_use(reg.slot, suspect.trailing_zeros() as usize, use_))
    }

    #[cold]
    pub(super) fn undefined_use(&self, slot: Slot, lane: usize, use_: &str) -> Trouble {
        let detail = format!("{use_} depends on a value that nothing wrote, which comes from here");
        let pc = match self.origin[slot as usize] {
            NEVER => self.pc,
            origin => origin as usize,
        };
        Trouble { pc: Some(pc), ..Trouble::new(FaultKind::Uninitialised, lane, detail) }
    }
}

/// The rows of a register.
fn slots_of(reg: Reg) -> impl Iterator<Item = usize> {
    let first = reg.slot as usize;
    first..=first + usize::from(reg.wide)
}
