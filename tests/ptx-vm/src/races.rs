//! Who touched which bytes: the records by which conflicting accesses are found.
//!
//! Memory is divided into granules of 16 bytes. Each remembers its last write and its last read; where more
//! accesses than these are still of interest (several warps at different bytes, or several readers), the
//! others wait in a side list. Bytes are told apart by a mask, and threads by an owner for every two bytes,
//! so that neighbours in one granule are not mistaken for one another.

use crate::lanes::Mask;
use std::collections::HashMap;

const GRANULE: usize = 16;
/// The owner of bytes that several lanes of the warp have read.
const MANY: u8 = 32;

/// One access, or accesses of one warp that nothing separates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touch {
    /// The cluster (or block, where there are no clusters) of the launch.
    pub unit: u32,
    /// Warp within the unit.
    pub warp: u16,
    /// The warp's clock.
    pub stamp: u32,
    /// Index of the instruction.
    pub pc: u32,
    /// Atomic or relaxed: no race with others of this kind.
    pub strong: bool,
    pub write: bool,
    /// The bytes of the granule; none of them means no access.
    bytes: u16,
    /// The lane that touched each pair of bytes.
    owners: [u8; GRANULE / 2],
}

impl Touch {
    fn is_same_actor(&self, other: &Touch) -> bool {
        (self.unit, self.warp, self.strong, self.write) == (other.unit, other.warp, other.strong, other.write)
    }

    /// The lanes that touched some of these bytes.
    pub(crate) fn lanes(&self, bytes: u16) -> Mask {
        let mut mask = 0;
        for (pair, &owner) in self.owners.iter().enumerate() {
            if bytes & self.bytes & 3 << (2 * pair) != 0 {
                mask |= if owner == MANY { Mask::MAX } else { 1 << owner };
            }
        }
        mask
    }

    pub(crate) fn new(unit: u32, warp: usize, stamp: u32, pc: usize, strong: bool) -> Self {
        Touch { unit, warp: warp as u16, stamp, pc: pc as u32, strong, ..Touch::default() }
    }

    /// Adds an access of the same actor; false where the owners cannot express both.
    fn absorb(&mut self, new: &Touch) -> bool {
        let mut owners = self.owners;
        for (pair, owner) in owners.iter_mut().enumerate() {
            let (old_bytes, new_bytes) = (self.bytes >> (2 * pair) & 3, new.bytes >> (2 * pair) & 3);
            if new_bytes == 0 {
                continue;
            }
            if old_bytes == 0 || *owner == new.owners[pair] {
                *owner = new.owners[pair];
            } else if old_bytes == new_bytes {
                *owner = MANY;
            } else {
                return false;
            }
        }
        self.owners = owners;
        self.bytes |= new.bytes;
        self.stamp = self.stamp.max(new.stamp);
        self.pc = new.pc;
        true
    }
}

#[derive(Clone, Copy, Default)]
struct Granule {
    write: Touch,
    read: Touch,
    crowded: bool,
}

/// Decides whether an earlier access of these lanes happens before the present one.
pub(crate) trait Happens {
    fn before(&self, earlier: &Touch, lanes: Mask) -> bool;
}

/// The records of one stretch of memory.
#[derive(Default)]
pub(crate) struct Shadow {
    /// What the records belong to; those of another epoch are void.
    epoch: u64,
    granules: Vec<Granule>,
    crowd: HashMap<usize, Vec<Touch>>,
}

/// The present access.
pub(crate) struct Access {
    pub epoch: u64,
    pub offset: usize,
    pub bytes: usize,
    pub write: bool,
    pub lane: usize,
    pub touch: Touch,
}

impl Shadow {
    /// Checks the access against the records and adds it to them; `Err` is the access it races with.
    pub(crate) fn touch(&mut self, size: usize, access: &Access, order: &impl Happens) -> Result<(), Touch> {
        if self.epoch != access.epoch || self.granules.is_empty() {
            self.epoch = access.epoch;
            self.granules.clear();
            self.granules.resize(size.div_ceil(GRANULE), Granule::default());
            self.crowd.clear();
        }
        let end = access.offset + access.bytes;
        let mut at = access.offset;
        while at < end {
            let index = at / GRANULE;
            let stop = end.min((index + 1) * GRANULE);
            let bytes = (((1u32 << (stop - at)) - 1) << (at % GRANULE)) as u16;
            let touch = Touch {
                bytes,
                write: access.write,
                owners: [access.lane as u8; GRANULE / 2],
                ..access.touch
            };
            self.granule(index, touch, access.lane, order)?;
            at = stop;
        }
        Ok(())
    }

    /// Whether something wrote to these bytes in this epoch.
    pub(crate) fn written(&self, epoch: u64, offset: usize, bytes: usize) -> Option<Touch> {
        if self.epoch != epoch {
            return None;
        }
        let index = offset / GRANULE;
        let mask = (((1u32 << bytes.min(GRANULE)) - 1) << (offset % GRANULE)) as u16;
        let first = self.granules.get(index).map(|granule| granule.write);
        let crowd = self.crowd.get(&index).into_iter().flatten().copied();
        first.into_iter().chain(crowd).find(|touch| touch.write && touch.bytes & mask != 0)
    }

    fn granule(&mut self, index: usize, new: Touch, lane: usize, order: &impl Happens) -> Result<(), Touch> {
        let granule = &mut self.granules[index];
        let before = |old: &Touch| {
            let lanes = old.lanes(new.bytes);
            let same_thread = (old.unit, old.warp, lanes) == (new.unit, new.warp, 1 << lane);
            same_thread || order.before(old, lanes)
        };
        let conflicts = |old: &Touch| {
            old.bytes & new.bytes != 0
                && (old.write || new.write)
                && !(old.strong && new.strong)
                && !before(old)
        };
        for old in [&granule.write, &granule.read] {
            if conflicts(old) {
                return Err(*old);
            }
        }
        if granule.crowded {
            let crowd = self.crowd.entry(index).or_default();
            if let Some(old) = crowd.iter().find(|old| conflicts(old)) {
                return Err(*old);
            }
            if new.write {
                crowd.iter_mut().for_each(|old| old.bytes &= !new.bytes);
                crowd.retain(|old| old.bytes != 0);
                granule.crowded = !crowd.is_empty();
            }
        }
        if new.write {
            granule.read.bytes &= !new.bytes;
        }
        let last = if new.write { &mut granule.write } else { &mut granule.read };
        let separate = last.stamp != new.stamp || !last.is_same_actor(&new);
        if last.bytes == 0 || (separate && last.bytes & !new.bytes == 0 && (new.write || before(last))) {
            *last = new;
        } else if separate || !last.absorb(&new) {
            let mut old = std::mem::replace(last, new);
            if new.write {
                old.bytes &= !new.bytes;
            }
            granule.crowded = true;
            let crowd = self.crowd.entry(index).or_default();
            // Of different lanes at different times, the earlier may be ordered where the later is not.
            let alike = |c: &Touch| c.stamp == old.stamp || c.owners == old.owners;
            let same = crowd.iter_mut().find(|c| c.bytes == old.bytes && c.is_same_actor(&old) && alike(c));
            if !same.is_some_and(|touch| touch.absorb(&old)) && old.bytes != 0 {
                crowd.push(old);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A barrier orders everything before this time, and nothing after it.
    struct Barrier(u32);

    impl Happens for Barrier {
        fn before(&self, earlier: &Touch, _: Mask) -> bool {
            earlier.stamp < self.0
        }
    }

    /// Four bytes read by two lanes of a warp, one before a barrier and one after it, between reads of another warp, which
    /// put both on the side list; then written by the later of the two lanes, or by another.
    fn write_after_reads(writer: usize) -> Result<(), Touch> {
        let access = |warp, stamp, lane, write| {
            let touch = Touch { write, ..Touch::new(0, warp, stamp, 0, false) };
            Access { epoch: 1, offset: 0, bytes: 4, write, lane, touch }
        };
        let mut shadow = Shadow::default();
        for read in
            [access(0, 1, 0, false), access(1, 1, 0, false), access(0, 5, 1, false), access(1, 1, 0, false)]
        {
            shadow.touch(GRANULE, &read, &Barrier(0))?;
        }
        shadow.touch(GRANULE, &access(0, 6, writer, true), &Barrier(2))
    }

    #[test]
    fn reads_of_different_lanes_keep_their_times() {
        assert!(write_after_reads(1).is_ok(), "ordered by the barrier, and by the thread's own order");
        assert!(write_after_reads(2).is_err(), "nothing orders the later read before another lane's write");
    }
}
