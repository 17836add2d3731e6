//! One row of logits: its log-softmax at the label, and the gradient of that.
//!
//! A row is cut into blocks and a block into lanes, by index alone: the bits of the result depend on nothing but
//! the row, whatever its alignment, its neighbours and the number of threads.

use super::exp::exp;
use crate::batch::Logit;

/// Width of the arrays that the compiler turns into vector registers.
const LANES: usize = 16;

/// Vectors of a block. A lane adds up this many f32 terms before the block's sum goes on in f64, so the rounding
/// of a row's sum is bounded by this number, not by the vocabulary.
const GROUPS: usize = 8;

/// Floor 1 of one scored row.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowLogp {
    /// z[y] − logsumexp.
    pub logp: f32,
    /// log Σ exp z, rounded to f32.
    pub logsumexp: f32,
    /// What that rounding took away.
    pub residual: f32,
}

impl RowLogp {
    /// A row whose label is out of range. Its logsumexp is NaN so that floor 3 makes the row's gradient NaN.
    pub const BAD_LABEL: RowLogp = RowLogp { logp: f32::NAN, logsumexp: f32::NAN, residual: 0.0 };

    /// Log-softmax of `row` at column `target`.
    pub fn new<T: Logit>(row: &[T], target: usize) -> Self {
        let (reference, sum) = online_sum(row);
        let reference = f64::from(reference);
        let ln_sum = sum.ln();

        let logsumexp = (reference + ln_sum) as f32;
        // In this order nothing is lost even where ln s is below the last bit of an f64 reference.
        let lost = (reference - f64::from(logsumexp)) + ln_sum;
        let residual = if logsumexp.is_finite() { lost as f32 } else { 0.0 };

        // Subtract the large numbers from each other first: near ±1e4 their difference is exact, while
        // logsumexp is not.
        let logp = (f64::from(row[target].to_f32()) - reference) - ln_sum;
        RowLogp { logp: logp as f32, logsumexp, residual }
    }
}

/// Running reference r and Σ exp(x − r) of a row, in one pass over it.
///
/// r = min(max(r, x), f32::MAX), from −f32::MAX: the largest logit, kept finite. x − r is then exact where it
/// matters, so logits at ±1e4 lose nothing; −∞ contributes 0, +∞ makes the sum infinite and NaN makes it NaN; and
/// neither a row of −∞ (sum 0) nor one of −f32::MAX (sum V) is a special case.
fn online_sum<T: Logit>(row: &[T]) -> (f32, f64) {
    let mut reference = -f32::MAX;
    let mut sum = 0.0;
    for block in row.chunks(LANES * GROUPS) {
        let mut wide = [[f32::NEG_INFINITY; LANES]; GROUPS];
        let (groups, tail) = block.as_chunks::<LANES>();
        for (wide, group) in wide.iter_mut().zip(groups) {
            *wide = group.map(T::to_f32);
        }
        // What is missing from the last group stays −∞ and contributes 0.
        for (wide, x) in wide.as_flattened_mut()[LANES * groups.len()..].iter_mut().zip(tail) {
            *wide = x.to_f32();
        }
        let wide = &wide[..block.len().div_ceil(LANES)];

        let next = block_max(wide, reference);
        if next > reference {
            sum *= (f64::from(reference) - f64::from(next)).exp();
            reference = next;
        }
        sum += block_sum(wide, reference);
    }
    (reference, sum)
}

/// min(max(r, x), f32::MAX) over a block; NaN is passed over here and met in the sum.
fn block_max(block: &[[f32; LANES]], reference: f32) -> f32 {
    let mut largest = [reference; LANES];
    for group in block {
        for (largest, &x) in largest.iter_mut().zip(group) {
            *largest = if x > *largest { x } else { *largest };
        }
    }
    largest.into_iter().fold(reference, f32::max).min(f32::MAX)
}

/// Σ exp(x − r) over a block.
fn block_sum(block: &[[f32; LANES]], reference: f32) -> f64 {
    let mut sums = [0.0f32; LANES];
    for group in block {
        for (sum, &x) in sums.iter_mut().zip(group) {
            *sum += exp(x - reference);
        }
    }
    sums.into_iter().map(f64::from).sum()
}

/// Floor 3 of one scored row, in place: z[v] becomes c·1[v = y] − c·p[v], with p = exp((z − logsumexp) − residual).
///
/// `target` is the column of the label, or none where it is a bad one.
pub(super) fn gradient<T: Logit>(
    row: &mut [T],
    target: Option<usize>,
    logsumexp: f32,
    residual: f32,
    coef: f32,
) {
    // z − logsumexp is exact near the largest logits, and the residual restores what logsumexp had lost.
    let softmax = |z: f32| exp((z - logsumexp) - residual);
    // Not c·(1 − p): where c is infinite, c − c·p is NaN, as from PyTorch's log_softmax.
    let at_label = target.map(|y| (y, coef - coef * softmax(row[y].to_f32())));

    let elsewhere = |z: T| T::from_f32(coef * -softmax(z.to_f32()));
    let (groups, tail) = row.as_chunks_mut::<LANES>();
    for group in groups {
        *group = group.map(elsewhere);
    }
    for z in tail {
        *z = elsewhere(*z);
    }
    if let Some((y, gradient)) = at_label {
        row[y] = T::from_f32(gradient);
    }
}
