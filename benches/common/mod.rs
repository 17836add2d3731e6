//! Shapes and data that the benchmarks share.
#![allow(dead_code)] // every benchmark uses its own part

use dpo_kernels::{HostBatch, IGNORE_INDEX, LabelAlignment, Logit};

/// `[rows, vocab]` logits of two padded sequences per pair.
#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    pub rows: usize,
    pub vocab: usize,
}

impl Shape {
    /// Sequences of 32 rows, concatenated pairs.
    pub fn batch(self) -> HostBatch<'static> {
        HostBatch::padded(self.rows / 32, 32, self.vocab, LabelAlignment::Aligned)
    }

    /// S, the bytes of the logits.
    pub fn bytes<T: Logit>(self) -> u64 {
        (self.rows * self.vocab * size_of::<T>()) as u64
    }

    pub fn name<T: Logit>(self) -> String {
        format!("{}x{} {}", self.rows, self.vocab, T::DTYPE.name())
    }
}

/// Pseudo-random logits in [-8, 8), the same every time: never zeros, which run faster than data do.
pub fn logits<T: Logit>(count: usize) -> Vec<T> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        T::from_f32((state >> 40) as f32 / (1 << 20) as f32 - 8.0)
    };
    (0..count).map(|_| next()).collect()
}

/// One label per row; with `ignored`, every other row is not scored.
pub fn labels(shape: Shape, ignored: bool) -> Vec<i64> {
    let label = |row: usize| {
        if ignored && row.is_multiple_of(2) { IGNORE_INDEX } else { (row * 7919 % shape.vocab) as i64 }
    };
    (0..shape.rows).map(label).collect()
}
