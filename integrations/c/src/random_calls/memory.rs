//! Where the buffers and structs of a call are: each in pages of its own, next to an inaccessible one.

use std::collections::BTreeMap;
use std::ops::Range;

use super::guarded::{Guard, Guarded};
use super::random::Random;

/// Bytes beside a buffer, away from the inaccessible page, that are looked at after the call.
const MARGIN: usize = 128;

/// What stands in these, and in buffers that nothing was written to.
const FILL: u8 = 0x5a;

/// Pages come in multiples of so many bytes, a multiple of every page size that there is.
const PAGES: usize = 1 << 16;

/// A buffer in [`Memory`].
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    slot: usize,
    offset: usize,
    bytes: usize,
}

/// The buffers of one call. Pages are mapped once, and serve call after call.
#[derive(Default)]
pub struct Memory {
    slots: Vec<Slot>,
    /// Pages that no buffer is in, by their bytes.
    free: BTreeMap<usize, Vec<Guarded<u8>>>,
}

struct Slot {
    name: &'static str,
    pages: Guarded<u8>,
    /// The buffer and its margin.
    window: Range<usize>,
    buffer: Range<usize>,
    /// The window before the call.
    before: Vec<u8>,
    is_output: bool,
}

impl Memory {
    /// Gives the buffers up.
    pub fn clear(&mut self) {
        for Slot { pages, .. } in self.slots.drain(..) {
            self.free.entry(pages.len()).or_default().push(pages);
        }
    }

    /// A copy of `values`, which the call may only read.
    pub fn input<T: Copy>(&mut self, name: &'static str, values: &[T], random: &mut Random) -> Buffer {
        // SAFETY: what is handed over here are numbers, whose bytes are all there.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        self.place(name, bytes, false, random)
    }

    /// A copy of `values`, which the call may write.
    pub fn in_and_out<T: Copy>(&mut self, name: &'static str, values: &[T], random: &mut Random) -> Buffer {
        let buffer = self.input(name, values, random);
        self.slots[buffer.slot].is_output = true;
        buffer
    }

    /// The first `bytes` of a copy of `structs` of the header.
    pub fn structs<T: Copy>(
        &mut self,
        name: &'static str,
        structs: &[T],
        bytes: usize,
        random: &mut Random,
    ) -> Buffer {
        assert!(bytes <= size_of_val(structs));
        let mut whole = vec![0u8; size_of_val(structs)];
        // SAFETY: there is room for the structs, and nothing else is there.
        unsafe { whole.as_mut_ptr().copy_from_nonoverlapping(structs.as_ptr().cast(), whole.len()) };
        self.place(name, &whole[..bytes], false, random)
    }

    /// Room for `len` values that the call is to write.
    pub fn output<T>(&mut self, name: &'static str, len: usize, random: &mut Random) -> Buffer {
        self.place(name, &vec![FILL; len * size_of::<T>()], true, random)
    }

    fn place(&mut self, name: &'static str, bytes: &[u8], is_output: bool, random: &mut Random) -> Buffer {
        let capacity = bytes.len().max(1).next_multiple_of(PAGES);
        let mapped = self.free.entry(capacity).or_default().pop();
        // Whole pages have an inaccessible one on either side.
        let mut pages = mapped.unwrap_or_else(|| Guarded::new(Guard::Behind, &vec![0; capacity]));
        let (buffer, window) = match random.pick(&[Guard::Behind, Guard::Before]) {
            Guard::Behind => {
                let start = capacity - bytes.len();
                (start..capacity, start.saturating_sub(MARGIN)..capacity)
            }
            Guard::Before => (0..bytes.len(), 0..(bytes.len() + MARGIN).min(capacity)),
        };
        pages[window.clone()].fill(FILL);
        pages[buffer.clone()].copy_from_slice(bytes);
        let before = pages[window.clone()].to_vec();
        self.slots.push(Slot { name, pages, window, buffer, before, is_output });
        Buffer { slot: self.slots.len() - 1, offset: 0, bytes: bytes.len() }
    }

    /// The address of a buffer.
    pub fn address<T>(&mut self, buffer: Buffer) -> *mut T {
        let slot = &mut self.slots[buffer.slot];
        slot.pages[slot.buffer.start + buffer.offset..].as_mut_ptr().cast()
    }

    /// What a buffer holds.
    pub fn read<T: Copy>(&self, buffer: Buffer) -> Vec<T> {
        let slot = &self.slots[buffer.slot];
        values(&slot.pages[slot.buffer.start + buffer.offset..][..buffer.bytes])
    }

    /// What a buffer held before the call.
    pub fn read_before<T: Copy>(&self, buffer: Buffer) -> Vec<T> {
        let slot = &self.slots[buffer.slot];
        values(&slot.before[slot.buffer.start - slot.window.start + buffer.offset..][..buffer.bytes])
    }

    /// The first buffer that was written without leave: an input, what is beside a buffer, and after a
    /// refused call any.
    pub fn written_without_leave(&self, refused: bool) -> Option<&'static str> {
        let is_changed = |slot: &&Slot| {
            let (window, buffer) = (&slot.window, &slot.buffer);
            let now = &slot.pages[window.clone()];
            if refused || !slot.is_output {
                return now != slot.before;
            }
            let beside = [0..buffer.start - window.start, buffer.end - window.start..window.len()];
            beside.into_iter().any(|bytes| now[bytes.clone()] != slot.before[bytes])
        };
        self.slots.iter().find(is_changed).map(|slot| slot.name)
    }
}

fn values<T: Copy>(bytes: &[u8]) -> Vec<T> {
    // SAFETY: what is read here are numbers, and structs of numbers, of which all bytes are values.
    bytes
        .chunks_exact(size_of::<T>())
        .map(|value| unsafe { value.as_ptr().cast::<T>().read_unaligned() })
        .collect()
}

impl Buffer {
    /// The bytes from `offset` on, as a buffer.
    pub fn part(self, offset: usize, bytes: usize) -> Buffer {
        Buffer { offset: self.offset + offset, bytes, ..self }
    }
}
