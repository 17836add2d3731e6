//! The instructions that lanes of a warp execute together.

use super::unit::{Common, Stop};
use super::warp::Warp;
use crate::fault::{FaultKind, Trouble};
use crate::lanes::{LANES, Mask, lanes};
use crate::program::{Collective, Reg, Shuffle, Vote};

impl Warp {
    /// Executes the instruction for each membermask all of whose lanes are here; the result is for whom.
    pub(super) fn collective(
        &mut self,
        common: &mut Common<'_>,
        members: Reg,
        kind: &Collective,
        here: Mask,
    ) -> Result<Mask, Stop> {
        self.require_defined(members, here, "a membermask")?;
        let (mut done, mut left) = (0, here);
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let named = self.get(members, first) as Mask;
            let agreeing = lanes(left).filter(|&lane| self.get(members, lane) as Mask == named);
            let agreeing = agreeing.fold(0, |all, lane| all | 1 << lane);
            left &= !agreeing;
            if agreeing & !named != 0 {
                let lane = (agreeing & !named).trailing_zeros() as usize;
                let detail = format!("the lane is not in its own membermask {named:#010x}");
                return Err(Trouble::new(FaultKind::WarpDivergence, lane, detail).into());
            }
            // Lanes beyond the end of the block never were.
            if agreeing == named & self.born {
                common.clocks.sync_lanes(self.index, agreeing, self.live);
                self.execute_collective(kind, agreeing)?;
                done |= agreeing;
            }
        }
        Ok(done)
    }

    fn execute_collective(&mut self, kind: &Collective, mask: Mask) -> Result<(), Trouble> {
        match *kind {
            Collective::Sync => {}
            Collective::Shuffle { mode, dst, valid, value, lane: selector, clamp } => {
                self.require_defined(selector, mask, "the source lane of a shuffle")?;
                self.require_defined(clamp, mask, "the clamp of a shuffle")?;
                let values: [(u64, u64); LANES] = std::array::from_fn(|lane| {
                    (self.get(value, lane) & 0xffff_ffff, self.undefined_bits(value, lane))
                });
                for lane in lanes(mask) {
                    let (source, in_range) = shuffle_source(
                        mode,
                        lane as u32,
                        self.get(selector, lane) as u32,
                        self.get(clamp, lane) as u32,
                    );
                    // A lane that does not take part has nothing to give.
                    let (bits, undefined) =
                        if mask >> source & 1 != 0 { values[source as usize] } else { (0, 0xffff_ffff) };
                    self.set(dst, lane, bits, undefined);
                    if let Some(valid) = valid {
                        self.set(valid, lane, u64::from(in_range), 0);
                    }
                }
            }
            Collective::Vote { mode, dst, predicate } => {
                self.require_defined(predicate, mask, "a vote")?;
                let yes = crate::lanes::predicate(&self.rows, predicate.slot) & mask;
                let result = match mode {
                    Vote::All => u32::from(yes == mask),
                    Vote::Any => u32::from(yes != 0),
                    Vote::Uniform => u32::from(yes == mask || yes == 0),
                    Vote::Ballot => yes,
                };
                lanes(mask).for_each(|lane| self.set(dst, lane, u64::from(result), 0));
            }
            Collective::Match { all, any, dst, value } => {
                self.require_defined(value, mask, "a match")?;
                let values: [u64; LANES] = std::array::from_fn(|lane| self.get(value, lane));
                for lane in lanes(mask) {
                    let same = lanes(mask).filter(|&other| values[other] == values[lane]);
                    let same = same.fold(0, |all, other| all | 1 << other);
                    let result = if any || same == mask { same } else { 0 };
                    self.set(dst, lane, u64::from(result), 0);
                    if let Some(all) = all {
                        self.set(all, lane, u64::from(same == mask), 0);
                    }
                }
            }
            Collective::Reduce { combine, dst, value } => {
                self.require_defined(value, mask, "a reduction")?;
                let result =
                    lanes(mask).map(|lane| self.get(value, lane) as u32).reduce(combine).unwrap_or(0);
                lanes(mask).for_each(|lane| self.set(dst, lane, u64::from(result), 0));
            }
            Collective::Elect { dst, elected } => {
                let leader = mask.trailing_zeros() as usize;
                for lane in lanes(mask) {
                    self.set(dst, lane, leader as u64, 0);
                    self.set(elected, lane, u64::from(lane == leader), 0);
                }
            }
        }
        Ok(())
    }
}

/// The lane that a shuffle reads, and whether the asked-for lane was in range (else it is the lane itself).
fn shuffle_source(mode: Shuffle, lane: u32, selector: u32, clamp: u32) -> (u32, bool) {
    let selector = selector & 31;
    let (bound, segment) = (clamp & 31, clamp >> 8 & 31);
    let highest = (lane & segment) | (bound & !segment);
    let lowest = lane & segment;
    let (source, in_range) = match mode {
        Shuffle::Up => (lane.wrapping_sub(selector), lane as i32 - selector as i32 >= highest as i32),
        Shuffle::Down => (lane + selector, lane + selector <= highest),
        Shuffle::Butterfly => (lane ^ selector, lane ^ selector <= highest),
        Shuffle::Index => {
            let source = lowest | (selector & !segment);
            (source, source <= highest)
        }
    };
    if in_range { (source & 31, true) } else { (lane, false) }
}
