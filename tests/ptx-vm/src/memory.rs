//! Device memory: allocations at made-up addresses, far apart, with a record for every byte of whether
//! anything wrote it.

use crate::races::Shadow;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a page; one lock each.
pub(crate) const PAGE: usize = 4096;
/// Distance between allocations: a 32-bit index that wraps lands in the gap, not in a neighbour.
const GAP: u64 = 1 << 36;

/// A request that the host made wrongly, or a result that it may not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// No live allocation holds these bytes.
    #[error("no live allocation holds {bytes} bytes at {address:#x}")]
    Unmapped {
        /// The first address.
        address: u64,
        /// How many bytes were asked for.
        bytes: usize,
    },
    /// Nothing wrote the byte.
    #[error("nothing wrote byte {offset} of the allocation `{name}`")]
    Uninitialised {
        /// Its distance from the start of the allocation.
        offset: usize,
        /// The allocation.
        name: String,
    },
}

/// How to place an allocation.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Bytes past a 256-byte boundary at which it starts.
    pub offset: usize,
    /// Whether a kernel that writes to it is at fault.
    pub read_only: bool,
    /// What findings call it.
    pub name: String,
}

impl Placement {
    /// A placement with that name, on a 256-byte boundary, writable.
    pub fn named(name: impl Into<String>) -> Self {
        Placement { name: name.into(), ..Placement::default() }
    }

    /// Starts that many bytes past a 256-byte boundary.
    pub fn offset(self, offset: usize) -> Self {
        Placement { offset, ..self }
    }

    /// Makes writes by kernels faults.
    pub fn read_only(self) -> Self {
        Placement { read_only: true, ..self }
    }
}

/// Bytes, and which of them hold a value.
#[derive(Default)]
pub(crate) struct Bytes {
    data: Vec<u8>,
    /// 0xff for a byte that (partly) nothing wrote.
    undefined: Vec<u8>,
}

impl Bytes {
    pub(crate) fn uninitialised(len: usize) -> Self {
        Bytes { data: vec![0; len], undefined: vec![0xff; len] }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// A value of 1, 2, 4 or 8 bytes, and its undefined bits.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize, bytes: usize) -> (u64, u64) {
        (little_endian(&self.data[at..at + bytes]), little_endian(&self.undefined[at..at + bytes]))
    }

    /// Stores the low bytes of a value; a byte with an undefined bit becomes undefined.
    #[inline(always)]
    pub(crate) fn store(&mut self, at: usize, bytes: usize, value: u64, undefined: u64) {
        self.data[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        let flags = &mut self.undefined[at..at + bytes];
        if undefined == 0 {
            flags.fill(0);
        } else {
            for (flag, bits) in flags.iter_mut().zip(undefined.to_le_bytes()) {
                *flag = if bits == 0 { 0 } else { 0xff };
            }
        }
    }

    /// Forgets what the bytes held.
    pub(crate) fn undefine(&mut self, at: usize, bytes: usize) {
        self.undefined[at..at + bytes].fill(0xff);
    }
}

#[inline(always)]
fn little_endian(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
    }
}

/// A page and the accesses of the running launch to it.
pub(crate) struct Page {
    pub bytes: Bytes,
    pub shadow: Shadow,
}

/// A stretch of device memory.
pub(crate) struct Allocation {
    base: u64,
    len: usize,
    pages: Vec<Mutex<Page>>,
    freed: bool,
    pub read_only: bool,
    pub name: String,
}

impl Allocation {
    /// The page that holds the address, locked, and the address's place in it.
    pub(crate) fn page(&self, address: u64) -> (MutexGuard<'_, Page>, usize) {
        let (index, at) = self.locate(address);
        (self.pages[index].lock().unwrap_or_else(PoisonError::into_inner), at)
    }

    /// Index of the page that holds the address, and the address's place in it.
    fn locate(&self, address: u64) -> (usize, usize) {
        let from_first_page = (address - self.base / PAGE as u64 * PAGE as u64) as usize;
        (from_first_page / PAGE, from_first_page % PAGE)
    }

    /// Whether the address lies in it or in the gap after it.
    fn is_near(&self, address: u64) -> bool {
        address >= self.base && address - self.base < GAP
    }

    /// The part of the range in each page.
    fn pieces(&self, address: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = address + done as u64;
            let piece = (PAGE - at as usize % PAGE).min(len - done);
            done += piece;
            (piece > 0).then_some((at, piece))
        })
    }
}

/// Why an access is not possible.
pub(crate) enum Denied {
    Outside(String),
    Freed(String),
}

/// The device memory of a [`Vm`](crate::Vm).
#[derive(Default)]
pub struct Memory {
    /// By rising base.
    allocations: Vec<Allocation>,
}

impl Memory {
    /// Allocates and fills; the result is the device address.
    pub fn alloc(&mut self, bytes: &[u8], placement: Placement) -> u64 {
        let address = self.alloc_uninit(bytes.len(), placement);
        self.fill(self.allocations.len() - 1, address, bytes);
        address
    }

    /// Allocates bytes that hold nothing yet; the result is the device address.
    pub fn alloc_uninit(&mut self, len: usize, placement: Placement) -> u64 {
        let base = GAP * (self.allocations.len() as u64 + 1) + placement.offset as u64;
        let Placement { read_only, name, .. } = placement;
        let name = if name.is_empty() { format!("#{}", self.allocations.len()) } else { name };
        let mut allocation = Allocation { base, len, pages: Vec::new(), freed: false, read_only, name };
        let pages = if len == 0 { 0 } else { allocation.locate(base + len as u64 - 1).0 + 1 };
        let page = || Page { bytes: Bytes::uninitialised(PAGE), shadow: Shadow::default() };
        allocation.pages.resize_with(pages, || Mutex::new(page()));
        self.allocations.push(allocation);
        base
    }

    /// Frees the allocation that starts at the address; accesses to it are faults from then on.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let live = self.allocations.iter_mut().find(|a| a.base == address && !a.freed);
        let allocation = live.ok_or(MemoryError::Unmapped { address, bytes: 0 })?;
        allocation.freed = true;
        allocation.pages.clear();
        Ok(())
    }

    /// The bytes there; an error where nothing wrote one of them.
    pub fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        let allocation = &self.allocations[self.host_find(address, len)?];
        let mut result = Vec::with_capacity(len);
        for (at, piece) in allocation.pieces(address, len) {
            let (page, start) = allocation.page(at);
            let undefined = &page.bytes.undefined[start..start + piece];
            if let Some(index) = undefined.iter().position(|&flag| flag != 0) {
                let offset = (at - allocation.base) as usize + index;
                return Err(MemoryError::Uninitialised { offset, name: allocation.name.clone() });
            }
            result.extend_from_slice(&page.bytes.data[start..start + piece]);
        }
        Ok(result)
    }

    /// Overwrites bytes, also of a read-only allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let index = self.host_find(address, bytes.len())?;
        self.fill(index, address, bytes);
        Ok(())
    }

    /// Makes bytes hold nothing again.
    pub fn undefine(&mut self, address: u64, len: usize) -> Result<(), MemoryError> {
        let allocation = &self.allocations[self.host_find(address, len)?];
        for (at, piece) in allocation.pieces(address, len) {
            let (mut page, start) = allocation.page(at);
            page.bytes.undefine(start, piece);
        }
        Ok(())
    }

    fn fill(&mut self, index: usize, address: u64, bytes: &[u8]) {
        let allocation = &self.allocations[index];
        let mut rest = bytes;
        for (at, piece) in allocation.pieces(address, bytes.len()) {
            let (mut page, start) = allocation.page(at);
            page.bytes.data[start..start + piece].copy_from_slice(&rest[..piece]);
            page.bytes.undefined[start..start + piece].fill(0);
            rest = &rest[piece..];
        }
    }

    fn host_find(&self, address: u64, bytes: usize) -> Result<usize, MemoryError> {
        self.find(address, bytes).map_err(|_| MemoryError::Unmapped { address, bytes })
    }

    /// Index of the live allocation that holds the bytes.
    #[inline]
    pub(crate) fn find(&self, address: u64, bytes: usize) -> Result<usize, Denied> {
        // Allocations start one gap apart.
        let index = ((address / GAP) as usize).wrapping_sub(1);
        let near = self.allocations.get(index).filter(|allocation| allocation.is_near(address));
        let Some(allocation) = near else {
            return Err(Denied::Outside("which no allocation is near".to_owned()));
        };
        if allocation.freed {
            return Err(Denied::Freed(allocation.name.clone()));
        }
        let offset = (address - allocation.base) as usize;
        if offset + bytes > allocation.len {
            let Allocation { name, len, .. } = allocation;
            return Err(Denied::Outside(format!("{offset} bytes into `{name}`, which has {len}")));
        }
        Ok(index)
    }

    pub(crate) fn allocation(&self, index: usize) -> &Allocation {
        &self.allocations[index]
    }

    /// Gives back the latest allocation, for the parameters of a launch.
    pub(crate) fn pop(&mut self) {
        self.allocations.pop();
    }
}
