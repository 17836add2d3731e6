//! One row of logits: its log-softmax at the label, and the gradient of that.
//!
//! A row is cut into blocks, chunks and lanes by index alone: the bits of the result depend on nothing but the row and
//! on whether the processor has a fused multiply-add, whatever the row's alignment, its neighbours and the number of
//! threads.

use super::element::{CHUNK, store, stream};
use super::exp::{EXP2, Reference, each, exp2};
use super::simd::{self, Kernel, LANES, Simd};
use crate::batch::Logit;

/// Vectors of a block. A lane adds up this many f32 terms, in two halves, before the block's sum goes on in f64, so the
/// rounding of a row's sum is bounded by this number, not by the vocabulary.
const GROUPS: usize = 16;

/// Logits of a block.
const BLOCK: usize = GROUPS * LANES;

/// What a lane of a block can only add up to if a logit is above the reference, by ln 2 at the least: a term at the
/// reference is 1 within a part in hundreds.
const HIGH: f32 = 2.0 * GROUPS as f32;

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
    /// A row that is not scored.
    pub const IGNORED: RowLogp = RowLogp { logp: 0.0, logsumexp: 0.0, residual: 0.0 };

    /// A row whose label is out of range. Its logsumexp is NaN so that floor 3 makes the row's gradient NaN.
    pub const BAD_LABEL: RowLogp = RowLogp { logp: f32::NAN, logsumexp: f32::NAN, residual: 0.0 };

    /// Log-softmax of `row` at column `target`.
    pub fn new<T: Logit>(row: &[T], target: usize) -> Self {
        let OnlineSum { reference, sums } = simd::run(SumRow(row));
        let reference = reference.value();
        let ln_sum = sums.iter().sum::<f64>().ln();

        let logsumexp = (reference + ln_sum) as f32;
        // In this order nothing is lost even where ln s is below the last bit of an f64 reference.
        let lost = (reference - f64::from(logsumexp)) + ln_sum;
        let residual = if logsumexp.is_finite() { lost as f32 } else { 0.0 };

        // Subtract the large numbers from each other first: near ±1e4 their difference is exact, while
        // logsumexp is not.
        let logp = (f64::from(row[target].to_f32()) - reference) - ln_sum;
        // No probability is above 1, and a sum that was rounded down must not make one. NaN stays.
        let logp = if logp > 0.0 { 0.0 } else { logp as f32 };
        RowLogp { logp, logsumexp, residual }
    }
}

/// Running reference R and Σ exp(x − R), lane by lane, of the logits seen so far.
///
/// R is no more than ln [`HIGH`] below the largest logit: it is raised to that of a block when a sum of the block gets
/// so high, which spares the look at each logit. It starts at −f32::MAX and is never above f32::MAX, so −∞ contributes
/// 0, +∞ makes the sum infinite and NaN makes it NaN; and neither a row of −∞ (sum 0) nor one of −f32::MAX (sum V) is
/// a special case. Logits at ±1e4 lose nothing: [`Reference`].
#[derive(Debug, Clone, Copy)]
struct OnlineSum {
    reference: Reference,
    sums: [f64; LANES],
}

impl OnlineSum {
    const EMPTY: OnlineSum = OnlineSum { reference: Reference::LOWEST, sums: [0.0; LANES] };

    #[inline(always)]
    fn add<T: Logit, S: Simd>(&mut self, simd: S, block: &[T; BLOCK]) {
        let mut terms = self.terms(simd, block);
        // Not where it is NaN, which no reference makes a number. Such blocks are few: in random order the k-th has the
        // largest logit so far with probability 1/k.
        if simd.any_greater(terms, simd.splat(HIGH)) {
            self.raise_reference::<S>(simd.lanes(largest(simd, block)));
            terms = self.terms(simd, block);
        }
        for (sum, term) in self.sums.iter_mut().zip(simd.lanes(terms)) {
            *sum += f64::from(term);
        }
    }

    /// Σ exp(x − R) of a block, lane by lane.
    #[inline(always)]
    fn terms<T: Logit, S: Simd>(&self, simd: S, block: &[T; BLOCK]) -> S::F32s {
        let (mut even, mut odd) = (simd.splat(0.0), simd.splat(0.0));
        for chunk in block.as_chunks().0 {
            let [a, b, c, d] = exp2(simd, self.reference.exponents(simd, T::load(simd, chunk)), &EXP2);
            even = simd.add(simd.add(even, a), c);
            odd = simd.add(simd.add(odd, b), d);
        }
        simd.add(even, odd)
    }

    /// Out of line, so that the loop over blocks keeps its registers.
    #[cold]
    #[inline(never)]
    fn raise_reference<S: Simd>(&mut self, largest: [f32; LANES]) {
        let raised = Reference::new::<S>(largest.into_iter().fold(-f32::MAX, f32::max).min(f32::MAX));
        let shrink = (self.reference.value() - raised.value()).exp();
        self.sums = self.sums.map(|sum| sum * shrink);
        self.reference = raised;
    }
}

/// The largest logit of a block, lane by lane, NaN passed over.
#[inline(always)]
fn largest<T: Logit, S: Simd>(simd: S, block: &[T; BLOCK]) -> S::F32s {
    let mut largest = simd.splat(-f32::MAX);
    for chunk in block.as_chunks().0 {
        for x in T::load(simd, chunk) {
            largest = simd.max(x, largest);
        }
    }
    largest
}

/// The sum over a whole row, in one pass over it.
#[derive(Clone)]
struct SumRow<'a, T>(&'a [T]);

impl<T: Logit> Kernel for SumRow<'_, T> {
    type Output = OnlineSum;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> OnlineSum {
        let mut sum = OnlineSum::EMPTY;
        let (blocks, tail) = self.0.as_chunks::<BLOCK>();
        for block in blocks {
            sum.add(simd, block);
        }
        if !tail.is_empty() {
            // What is missing from the last block is −∞ and contributes 0.
            let mut block = [T::from_f32(f32::NEG_INFINITY); BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            sum.add(simd, &block);
        }
        sum
    }
}

/// What [`stream`] asks of an address.
const STREAM_ALIGNMENT: usize = 64;

/// Where a row's gradient comes from and how it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// The logits are where the gradient is to be.
    InPlace,
    /// They are elsewhere, and the gradient fits in the caches.
    Apart(&'a [T]),
    /// They are elsewhere, and the gradient is to go past the caches.
    Streamed(&'a [T]),
}

/// Floor 3 of one scored row: c·1[v = y] − c·p[v], with p = exp((z − logsumexp) − residual).
#[derive(Debug, Clone, Copy)]
pub(super) struct RowGradient {
    /// The column of the label, or none where it is a bad one.
    pub target: Option<usize>,
    pub logsumexp: f32,
    pub residual: f32,
    /// c.
    pub coef: f32,
}

impl RowGradient {
    /// Writes the gradient of a row.
    pub fn write<T: Logit>(self, logits: Source<'_, T>, out: &mut [T]) {
        // What is packed into a T may be NaN, but one without a payload.
        let plain = |x: f32| if x.is_nan() { f32::NAN } else { x };
        let gradient = RowGradient {
            target: self.target,
            logsumexp: plain(self.logsumexp),
            residual: plain(self.residual),
            coef: plain(self.coef),
        };
        simd::run(WriteRow { gradient, logits, out });
    }

    /// The gradient at the label, whose logit is z.
    fn at_label(&self, z: f32) -> f32 {
        let softmax = ((f64::from(z) - f64::from(self.logsumexp)) - f64::from(self.residual)).exp();
        let coef = f64::from(self.coef);
        // Not c·(1 − p): where c is infinite, c − c·p is NaN, as from PyTorch's log_softmax.
        (coef - coef * softmax) as f32
    }

    fn elsewhere<S: Simd>(&self) -> Elsewhere {
        let reference = Reference::new::<S>(self.logsumexp);
        // p = exp(z − R) exp((R − logsumexp) − residual), the second a factor of the whole row.
        let rounding =
            if self.logsumexp.is_finite() { reference.value() - f64::from(self.logsumexp) } else { 0.0 };
        let factor = (rounding - f64::from(self.residual)).exp();
        Elsewhere { reference, factor: (-f64::from(self.coef) * factor) as f32 }
    }
}

/// The gradient of columns that are not the label's: −c·p = factor·exp(z − R).
#[derive(Debug, Clone, Copy)]
struct Elsewhere {
    reference: Reference,
    factor: f32,
}

impl Elsewhere {
    #[inline(always)]
    fn pack<T: Logit, S: Simd>(&self, simd: S, chunk: &[T; CHUNK]) -> T::Packed<S> {
        let softmax = exp2(simd, self.reference.exponents(simd, T::load(simd, chunk)), T::GRADIENT_EXP2);
        T::pack(simd, each(softmax, |p| simd.mul(simd.splat(self.factor), p)))
    }

    /// Puts it where the logits are.
    #[inline(always)]
    fn in_place<T: Logit, S: Simd>(&self, simd: S, columns: &mut [T]) {
        let (chunks, tail) = columns.as_chunks_mut();
        for chunk in chunks {
            store::<T, S>(self.pack(simd, chunk), chunk);
        }
        if !tail.is_empty() {
            let mut chunk = [T::from_f32(0.0); CHUNK];
            chunk[..tail.len()].copy_from_slice(tail);
            store::<T, S>(self.pack(simd, &chunk), &mut chunk);
            tail.copy_from_slice(&chunk[..tail.len()]);
        }
    }

    /// The same in another place; `out` begins at an address that streaming stores can take, if `STREAM`.
    #[inline(always)]
    fn apart<T: Logit, S: Simd, const STREAM: bool>(&self, simd: S, logits: &[T], out: &mut [T]) {
        let ((chunks, tail), (out_chunks, out_tail)) = (logits.as_chunks(), out.as_chunks_mut());
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            let packed = self.pack(simd, chunk);
            if STREAM {
                // SAFETY: chunks have a size of a multiple of 64 bytes, and the first is aligned to as many.
                unsafe { stream(simd, packed, out) }
            } else {
                store::<T, S>(packed, out);
            }
        }
        out_tail.copy_from_slice(tail);
        self.in_place(simd, out_tail);
    }
}

struct WriteRow<'a, T> {
    gradient: RowGradient,
    logits: Source<'a, T>,
    out: &'a mut [T],
}

impl<T: Logit> Kernel for WriteRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let WriteRow { gradient, logits, out } = self;
        // First, since in place its logit is about to be overwritten.
        let at_label = gradient.target.map(|y| {
            let z = match logits {
                Source::InPlace => out[y],
                Source::Apart(logits) | Source::Streamed(logits) => logits[y],
            };
            (y, gradient.at_label(z.to_f32()))
        });

        let elsewhere = gradient.elsewhere::<S>();
        match logits {
            Source::InPlace => elsewhere.in_place(simd, out),
            Source::Apart(logits) => elsewhere.apart::<T, S, false>(simd, logits, out),
            Source::Streamed(logits) => {
                let head = out.as_ptr().align_offset(STREAM_ALIGNMENT).min(out.len());
                let ((head, rest), (out_head, out_rest)) = (logits.split_at(head), out.split_at_mut(head));
                out_head.copy_from_slice(head);
                elsewhere.in_place(simd, out_head);
                elsewhere.apart::<T, S, true>(simd, rest, out_rest);
                simd.fence();
            }
        }

        if let Some((y, gradient)) = at_label {
            out[y] = T::from_f32(gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Logits from −8 to 8, in no order.
    fn logits<T: Logit>(count: usize) -> Vec<T> {
        (0..count).map(|i| T::from_f32((i * 7919 % 1601) as f32 / 100.0 - 8.0)).collect()
    }

    /// All that have a fused multiply-add agree to the bit.
    #[test]
    fn instruction_sets_agree() {
        for count in [1, 63, 64, 255, 256, 1000] {
            let row = logits::<bf16>(count);
            let sums: Vec<_> = simd::run_on_each(&SumRow(&row));
            let logsumexp = |sum: &OnlineSum| sum.reference.value() + sum.sums.iter().sum::<f64>().ln();
            let portable = logsumexp(&sums.last().expect("the portable one").1);
            let fused = &sums[..sums.len() - 1];
            for (set, sum) in fused {
                assert_eq!(sum.sums, fused[0].1.sums, "{set}, {count} logits");
                assert_eq!(sum.reference, fused[0].1.reference, "{set}, {count} logits");
                // Each of the two is off by at most 2⁻²² from its exponentials, 8·2⁻²⁴ from its additions, and 9/4 of
                // 2⁻²⁴ for each unit of x − R, of which there are 16 at most.
                let error = (logsumexp(sum) - portable).abs();
                assert!(
                    error < 2.0 * (4.0 + 8.0 + 36.0) / (1 << 24) as f64,
                    "{set}, {count} logits: {error:e}"
                );
            }
        }
    }

    /// The three ways to write a gradient, at every place that a row can have among 64 bytes.
    fn ways_to_write_agree<T: Logit + PartialEq + std::fmt::Debug>() {
        let row = logits::<T>(3 * CHUNK + 5);
        let RowLogp { logsumexp, residual, .. } = RowLogp::new(&row, 70);
        let gradient = RowGradient { target: Some(70), logsumexp, residual, coef: -0.25 };
        let mut in_place = row.clone();
        gradient.write(Source::InPlace, &mut in_place);
        for place in 0..CHUNK {
            for source in [Source::Apart(&row[..]), Source::Streamed(&row[..])] {
                let mut out = vec![T::from_f32(0.5); place + row.len() + CHUNK];
                gradient.write(source, &mut out[place..][..row.len()]);
                assert_eq!(out[place..][..row.len()], in_place);
                let outside = out[..place].iter().chain(&out[place + row.len()..]);
                assert!(outside.copied().all(|x| x == T::from_f32(0.5)), "written outside of the row");
            }
        }
    }

    /// References that start too low, by little and by much, near and far; and what is not a number.
    #[test]
    fn the_reference_is_raised_where_it_must_be() {
        let cases: [(&[(usize, f32)], f64); 7] = [
            (&[(0, 0.0), (300, 3.0), (700, 50.0)], 50.0),
            (&[(0, -1e4), (999, 1e4)], 1e4),
            (&[(0, 7e4), (512, 9e4)], 9e4),
            (&[(0, -f32::MAX), (1, -f32::MAX)], f64::from(-f32::MAX)),
            (&[(5, f32::MAX), (600, f32::MAX)], f64::from(f32::MAX)),
            (&[(5, f32::INFINITY), (600, 2.0)], f64::INFINITY),
            (&[], f64::NEG_INFINITY),
        ];
        for (logits, expected) in cases {
            let mut row = [f32::NEG_INFINITY; 1000];
            for &(column, logit) in logits {
                row[column] = logit;
            }
            let exact =
                logits.iter().map(|&(_, z)| (f64::from(z) - expected).exp()).sum::<f64>().ln() + expected;
            let exact = if expected.is_finite() { exact } else { expected };
            for (set, sum) in simd::run_on_each(&SumRow(&row)) {
                let found = sum.reference.value() + sum.sums.iter().sum::<f64>().ln();
                let near = found == exact || (found - exact).abs() < 2f64.powi(-20);
                assert!(near, "{set}: {found}, expected {exact} of {logits:?}");
            }
            row[321] = f32::NAN;
            for (set, sum) in simd::run_on_each(&SumRow(&row)) {
                assert!(sum.sums.iter().sum::<f64>().is_nan(), "{set}: NaN is lost among {logits:?}");
            }
        }
    }

    #[test]
    fn streaming_does_not_matter() {
        ways_to_write_agree::<f32>();
        ways_to_write_agree::<f16>();
        ways_to_write_agree::<bf16>();
    }
}
