//! Stores past the caches, for a buffer larger than they are: an ordinary store would first read what it overwrites.

use super::element::{CHUNK, Element, VECTORS};
use super::simd::{Kernel, Simd};

/// A chunk at an address that streaming stores accept.
#[repr(C, align(64))]
pub struct AlignedChunk<T>([T; CHUNK]);

/// Splits elements into those before the first aligned address, the aligned chunks from there on, and those that are
/// left over at the end.
pub fn split_aligned<T: Element>(elements: &mut [T]) -> (&mut [T], &mut [AlignedChunk<T>], &mut [T]) {
    const { assert!(size_of::<AlignedChunk<T>>() == size_of::<[T; CHUNK]>()) }
    // SAFETY: an `AlignedChunk` is `CHUNK` elements and, by the assertion, no padding. Its alignment is what
    // `align_to_mut` looks for.
    unsafe { elements.align_to_mut() }
}

/// Writes a packed chunk past the caches. [`Simd::fence`] must follow before another thread reads it.
#[inline(always)]
pub fn stream<T: Element, S: Simd>(simd: S, packed: T::Packed<S>, to: &mut AlignedChunk<T>) {
    const { assert!(size_of::<T::Packed<S>>() == size_of::<[T; CHUNK]>()) }
    let to = std::ptr::from_mut(to).cast::<S::U32s>();
    for (i, register) in packed.as_ref().iter().enumerate() {
        // SAFETY: the registers are as long as the chunk together and 64 bytes each, so that every address is aligned
        // and inside the chunk. Any bits are an element.
        unsafe { simd.stream(*register, to.add(i)) }
    }
}

/// Writes zeros past the caches.
pub struct StreamZeros<'a, T> {
    pub out: &'a mut [T],
}

impl<T: Element> Kernel for StreamZeros<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (head, chunks, tail) = split_aligned(self.out);
        for chunk in chunks {
            stream::<T, S>(simd, T::pack(simd, [simd.splat(0.0); VECTORS]), chunk);
        }
        simd.fence();
        for edge in [head, tail] {
            edge.fill(T::from_f32(0.0));
        }
    }
}
