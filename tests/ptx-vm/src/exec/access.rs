//! Loads, stores, atomics and asynchronous copies, with every check on them.

use super::unit::{Common, Stop};
use super::warp::{Copy, Warp};
use crate::clocks::{Clocks, StrongAccess};
use crate::fault::{FaultKind, Race, Trouble};
use crate::lanes::{Mask, lanes};
use crate::memory::{Bytes, Denied, PAGE, Page};
use crate::program::{Address, Atomic, CopyAsync, Order, Reg, Transfer};
use crate::races::{Access, Happens, Touch};
use crate::types::{LOCAL_WINDOW, RANK_SHIFT, SHARED_WINDOW, Space, Ty};
use std::cell::RefCell;
use std::sync::MutexGuard;

/// An address in its own space.
#[derive(Clone, Copy)]
enum Place {
    Global(u64),
    /// Block within the cluster and offset.
    Shared(usize, usize),
    Local(usize),
}

/// What an access does to memory and what it says about order.
#[derive(Clone, Copy)]
struct Intent {
    bytes: usize,
    write: bool,
    order: Order,
}

/// A page of global memory that stays locked while the lanes of an instruction access it.
type Held<'a> = Option<(u64, MutexGuard<'a, Page>)>;

/// Happens-before for an access to shared memory.
struct WithinUnit<'c> {
    clocks: &'c Clocks,
    warp: usize,
    lane: usize,
}

impl Happens for WithinUnit<'_> {
    fn before(&self, earlier: &Touch, mask: Mask) -> bool {
        self.clocks.before(self.warp, self.lane, earlier, mask)
    }
}

/// Happens-before for an access to global memory.
struct AcrossUnits<'c, 's> {
    common: RefCell<&'c mut Common<'s>>,
    warp: usize,
    lane: usize,
    address: u64,
}

impl Happens for AcrossUnits<'_, '_> {
    fn before(&self, earlier: &Touch, mask: Mask) -> bool {
        let common = &mut **self.common.borrow_mut();
        if earlier.unit == common.index {
            return common.clocks.before(self.warp, self.lane, earlier, mask);
        }
        let publications = common.session.publications();
        common.clocks.before_across(&publications, self.warp, self.address, earlier, mask)
    }
}

impl Warp {
    /// The address of a lane, its alignment checked.
    fn place(&self, common: &Common<'_>, at: &Address, lane: usize, bytes: usize) -> Result<Place, Trouble> {
        let address = self.get(at.base, lane).wrapping_add_signed(at.offset);
        if !address.is_multiple_of(bytes as u64) {
            let detail = format!("address {address:#x} of an access of {bytes} bytes");
            return Err(Trouble::new(FaultKind::Misaligned, lane, detail));
        }
        let (space, address) = match at.space {
            Space::Generic if address >= SHARED_WINDOW => (Space::Shared, address - SHARED_WINDOW),
            Space::Generic if address >= LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
            Space::Generic => (Space::Global, address),
            space => (space, address),
        };
        Ok(match space {
            Space::Shared => {
                let offset = (address & ((1 << RANK_SHIFT) - 1)) as usize;
                let rank = match address >> RANK_SHIFT {
                    0 => self.rank,
                    above => above as usize - 1,
                };
                let block = common.blocks.get(rank);
                if block.is_some_and(|block| block.live == 0) {
                    let detail = "shared memory of a block that has ended";
                    return Err(Trouble::new(FaultKind::UseAfterFree, lane, detail));
                }
                let len = block.map_or(0, |block| block.shared.len());
                if offset + bytes > len {
                    let detail = format!("{bytes} bytes at shared address {address:#x} of {len}");
                    return Err(Trouble::new(FaultKind::OutOfBounds, lane, detail));
                }
                Place::Shared(rank, offset)
            }
            Space::Local => {
                let len = common.session.program.local_bytes;
                if address.saturating_add(bytes as u64) > len as u64 {
                    let detail = format!("{bytes} bytes at local address {address:#x} of {len}");
                    return Err(Trouble::new(FaultKind::OutOfBounds, lane, detail));
                }
                Place::Local(lane * len + address as usize)
            }
            _ => Place::Global(address),
        })
    }

    fn touch(&self, common: &Common<'_>, strong: bool) -> Touch {
        Touch::new(common.index, self.index, common.clocks.stamp(self.index), self.pc(), strong)
    }

    /// Checks a lane's access and hands the bytes to `action`, with the place of the access in them.
    fn access<'m, R>(
        &mut self,
        common: &mut Common<'m>,
        held: &mut Held<'m>,
        lane: usize,
        place: Place,
        intent: Intent,
        action: impl FnOnce(&mut Bytes, usize) -> R,
    ) -> Result<R, Trouble> {
        let Intent { bytes, write, order } = intent;
        match place {
            Place::Local(at) => Ok(action(&mut self.local, at)),
            Place::Shared(rank, offset) => {
                let touch = self.touch(common, order.strong);
                let epoch = u64::from(common.index) + 1;
                let access = Access { epoch, offset, bytes, write, lane, touch };
                let block = &mut common.blocks[rank];
                let happens = WithinUnit { clocks: &common.clocks, warp: self.index, lane };
                let size = block.shared.len();
                if let Err(other) = block.shadow.touch(size, &access, &happens) {
                    let what = format!("shared address {offset:#x}");
                    return Err(race(FaultKind::SharedRace, lane, Race { what, write, other }));
                }
                Ok(action(&mut block.shared, offset))
            }
            Place::Global(address) => self.access_global(common, held, lane, address, intent, action),
        }
    }

    fn access_global<'m, R>(
        &mut self,
        common: &mut Common<'m>,
        held: &mut Held<'m>,
        lane: usize,
        address: u64,
        Intent { bytes, write, order }: Intent,
        action: impl FnOnce(&mut Bytes, usize) -> R,
    ) -> Result<R, Trouble> {
        let memory = common.session.memory;
        let index = memory.find(address, bytes).map_err(|denied| match denied {
            Denied::Outside(how) => {
                let detail = format!("{bytes} bytes at {address:#x}, {how}");
                Trouble::new(FaultKind::OutOfBounds, lane, detail)
            }
            Denied::Freed(name) => Trouble::new(FaultKind::UseAfterFree, lane, format!("`{name}` was freed")),
        })?;
        let allocation = memory.allocation(index);
        if write && allocation.read_only {
            let detail = format!("a write to `{}`", allocation.name);
            return Err(Trouble::new(FaultKind::ReadOnly, lane, detail));
        }
        let key = address / PAGE as u64;
        if held.as_ref().is_none_or(|(page, _)| *page != key) {
            *held = None;
            *held = Some((key, allocation.page(address).0));
        }
        let Some((_, page)) = held else { unreachable!("the page was locked above") };
        let offset = (address % PAGE as u64) as usize;
        // Nothing can race with reads of what nobody may write.
        if !allocation.read_only {
            let epoch = common.session.epoch;
            if order.incoherent && page.shadow.written(epoch, offset, bytes).is_some() {
                let detail = format!("`{}` is written in the same launch", allocation.name);
                return Err(Trouble::new(FaultKind::Incoherent, lane, detail));
            }
            let touch = self.touch(common, order.strong);
            let access = Access { epoch, offset, bytes, write, lane, touch };
            let happens = AcrossUnits { common: RefCell::new(common), warp: self.index, lane, address };
            if let Err(other) = page.shadow.touch(PAGE, &access, &happens) {
                let what = format!("{address:#x} in `{}`", allocation.name);
                return Err(race(FaultKind::GlobalRace, lane, Race { what, write, other }));
            }
        }
        Ok(action(&mut page.bytes, offset))
    }

    /// For a strong access to global memory: waits for the turn, then notes what it publishes and observes.
    fn publish(
        &mut self,
        common: &mut Common<'_>,
        lane: usize,
        place: Place,
        order: Order,
        (reads, writes): (bool, bool),
    ) -> Result<(), Stop> {
        if let (Place::Global(address), true) = (place, order.strong) {
            common.take_turn()?;
            let session = common.session;
            let device = order.scope == crate::program::Scope::Device;
            let (acquire, release) = (order.acquire && device, order.release && device);
            let access = StrongAccess { reads, writes, acquire, release };
            common.clocks.strong_access(&mut session.publications(), self.index, lane, address, access);
        }
        Ok(())
    }

    pub(super) fn load(&mut self, common: &mut Common<'_>, load: &Transfer, mask: Mask) -> Result<(), Stop> {
        self.require_defined(load.at.base, mask, "an address")?;
        let (element, count) = (load.ty.bytes(), load.regs.len());
        let intent = Intent { bytes: element * count, write: false, order: load.order };
        let mut held = None;
        for lane in lanes(mask) {
            let place = self.place(common, &load.at, lane, intent.bytes)?;
            if load.order.strong {
                held = None;
                self.publish(common, lane, place, load.order, (true, false))?;
            }
            let mut values = [(0, 0); 8];
            self.access(common, &mut held, lane, place, intent, |bytes, at| {
                for (index, value) in values[..count].iter_mut().enumerate() {
                    *value = bytes.load(at + index * element, element);
                }
            })?;
            for (reg, (value, undefined)) in load.regs.iter().zip(values) {
                self.set(*reg, lane, extend(load.ty, value), extend(load.ty, undefined));
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        common: &mut Common<'_>,
        store: &Transfer,
        mask: Mask,
    ) -> Result<(), Stop> {
        self.require_defined(store.at.base, mask, "an address")?;
        let (element, count) = (store.ty.bytes(), store.regs.len());
        let intent = Intent { bytes: element * count, write: true, order: store.order };
        let mut held = None;
        for lane in lanes(mask) {
            let place = self.place(common, &store.at, lane, intent.bytes)?;
            if store.order.strong {
                held = None;
                self.publish(common, lane, place, store.order, (false, true))?;
            }
            let mut values = [(0, 0); 8];
            for (value, reg) in values.iter_mut().zip(&store.regs) {
                *value = (self.get(*reg, lane), truncate(self.undefined_bits(*reg, lane), element));
                if value.1 != 0 && matches!(place, Place::Global(_)) {
                    return Err(self.undefined_use(reg.slot, lane, "a store to global memory").into());
                }
            }
            self.access(common, &mut held, lane, place, intent, |bytes, at| {
                for (index, (value, undefined)) in values[..count].iter().enumerate() {
                    bytes.store(at + index * element, element, *value, *undefined);
                }
            })?;
        }
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        common: &mut Common<'_>,
        atomic: &Atomic,
        mask: Mask,
    ) -> Result<(), Stop> {
        self.require_defined(atomic.at.base, mask, "an address")?;
        for reg in &atomic.src {
            self.require_defined(*reg, mask, "an atomic")?;
        }
        let bytes = atomic.ty.bytes();
        let intent = Intent { bytes, write: true, order: atomic.order };
        for lane in lanes(mask) {
            let place = self.place(common, &atomic.at, lane, bytes)?;
            self.publish(common, lane, place, atomic.order, (atomic.dst.is_some(), true))?;
            let operand = |index: usize| {
                atomic.src.get(index).map_or(0, |reg: &Reg| truncate(self.get(*reg, lane), bytes))
            };
            let (b, c) = (operand(0), operand(1));
            let (old, undefined) = self.access(common, &mut None, lane, place, intent, |memory, at| {
                let (old, undefined) = memory.load(at, bytes);
                memory.store(at, bytes, (atomic.modify)(old, b, c), 0);
                (old, undefined)
            })?;
            if undefined != 0 {
                let detail = "an atomic on bytes that nothing wrote";
                return Err(Trouble::new(FaultKind::Uninitialised, lane, detail).into());
            }
            if let Some(dst) = atomic.dst {
                self.set(dst, lane, old, 0);
            }
        }
        Ok(())
    }

    /// Reads now and writes at the wait; in between, the bytes in shared memory hold nothing.
    pub(super) fn copy_async(
        &mut self,
        common: &mut Common<'_>,
        copy: &CopyAsync,
        mask: Mask,
    ) -> Result<(), Stop> {
        self.require_defined(copy.to.base, mask, "an address")?;
        self.require_defined(copy.from.base, mask, "an address")?;
        let weak = Order {
            strong: false,
            acquire: false,
            release: false,
            scope: crate::program::Scope::Device,
            incoherent: false,
        };
        let mut held = None;
        for lane in lanes(mask) {
            let to = self.place(common, &copy.to, lane, copy.bytes)?;
            let from = self.place(common, &copy.from, lane, copy.bytes)?;
            let wanted = match copy.source_bytes {
                Some(reg) => {
                    self.require_defined(reg, 1 << lane, "the size of a copy")?;
                    (self.get(reg, lane) as usize).min(copy.bytes)
                }
                None => copy.bytes,
            };
            let Place::Shared(_, shared) = to else { unreachable!("decoded as a shared address") };
            let mut data = vec![(0, 0); copy.bytes];
            if wanted > 0 {
                let read = Intent { bytes: wanted, write: false, order: weak };
                self.access(common, &mut held, lane, from, read, |bytes, at| {
                    for (index, byte) in data[..wanted].iter_mut().enumerate() {
                        *byte = bytes.load(at + index, 1);
                    }
                })?;
            }
            let write = Intent { bytes: copy.bytes, write: true, order: weak };
            self.access(common, &mut None, lane, to, write, |bytes, at| bytes.undefine(at, copy.bytes))?;
            if let Some(open) = self.copies.last_mut() {
                open.push(Copy { shared, data });
            }
        }
        Ok(())
    }

    /// Completes all but the latest groups of copies.
    pub(super) fn copy_wait(&mut self, common: &mut Common<'_>, pending: usize) -> Result<(), Stop> {
        let complete = (self.copies.len() - 1).saturating_sub(pending);
        let finished: Vec<Copy> = self.copies.drain(..complete).flatten().collect();
        let bytes = &mut common.blocks[self.rank].shared;
        for Copy { shared, data } in finished {
            for (index, (value, undefined)) in data.into_iter().enumerate() {
                bytes.store(shared + index, 1, value, undefined);
            }
        }
        Ok(())
    }
}

fn race(kind: FaultKind, lane: usize, race: Race) -> Trouble {
    Trouble { race: Some(race), ..Trouble::new(kind, lane, "") }
}

/// Sign or zero extension of an element to 64 bits.
#[inline(always)]
fn extend(ty: Ty, value: u64) -> u64 {
    match ty {
        Ty::S8 => value as i8 as u64,
        Ty::S16 => value as i16 as u64,
        Ty::S32 => value as i32 as u64,
        _ => value,
    }
}

fn truncate(value: u64, bytes: usize) -> u64 {
    value & (u64::MAX >> (64 - 8 * bytes))
}
