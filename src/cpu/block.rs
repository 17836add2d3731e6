//! A row of logits, cut into blocks by column alone: where the row lies in memory makes no difference.

use super::element::{CHUNK, Element, VECTORS};
use super::simd::{LANES, Simd};

/// Vectors of a block. A lane adds up this many f32 terms before the sum of the block goes on in f64, so the rounding
/// error of a row's sum is bounded by this number and not by the vocabulary.
pub const BLOCK_VECTORS: usize = 16;

/// Columns of a block.
pub const BLOCK: usize = BLOCK_VECTORS * LANES;

/// A block of a row.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a, T> {
    /// The number of blocks that come before this one.
    pub index: usize,
    pub logits: &'a [T; BLOCK],
    /// Where not all columns count, ∞ in those that do and −∞ in the others: behind the row's end, and at the label.
    pub limits: Option<&'a [T; BLOCK]>,
}

impl<T: Element> Block<'_, T> {
    /// The logits, chunk by chunk.
    #[inline(always)]
    pub fn chunks(&self) -> &[[T; CHUNK]] {
        self.logits.as_chunks().0
    }

    /// Replaces by −∞ what belongs to columns of the `chunk`-th chunk that do not count.
    #[inline(always)]
    pub fn limit<S: Simd>(
        &self,
        simd: S,
        chunk: usize,
        mut vectors: [S::F32s; VECTORS],
    ) -> [S::F32s; VECTORS] {
        if let Some(limits) = self.limits {
            let limits = T::load(simd, &limits.as_chunks().0[chunk]);
            for (x, limit) in vectors.iter_mut().zip(limits) {
                *x = simd.min(limit, *x);
            }
        }
        vectors
    }

    /// The largest logit, lane by lane. NaN is passed over.
    #[inline(always)]
    pub fn largest<S: Simd>(&self, simd: S) -> S::F32s {
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for (i, chunk) in self.chunks().iter().enumerate() {
            for x in self.limit(simd, i, T::load(simd, chunk)) {
                largest = simd.max(x, largest);
            }
        }
        largest
    }
}
