//! One row of logits: its log-softmax at the label, and the gradient of that.
//!
//! A row is cut into blocks, chunks and lanes by index alone: the bits of the result depend on nothing but the row and
//! on whether the processor has a fused multiply-add, whatever the row's alignment, its neighbours and the number of
//! threads.

use super::element::{CHUNK, VECTORS, store, stream};
use super::exp::{each, exp};
use super::simd::{self, Kernel, LANES, Simd};
use crate::batch::Logit;

/// Vectors of a block. A lane adds up this many f32 terms before the block's sum goes on in f64, so the rounding
/// of a row's sum is bounded by this number, not by the vocabulary.
const GROUPS: usize = 8;

/// Logits of a block: few enough that its vectors stay in registers between the two times that they are looked at.
const BLOCK: usize = GROUPS * LANES;

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
        let OnlineSum { reference, sums } = simd::run(SumRow(row));
        let reference = f64::from(reference);
        let ln_sum = sums.iter().sum::<f64>().ln();

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

/// Running reference r and Σ exp(x − r), lane by lane, of the logits seen so far.
///
/// r = min(max(r, x), f32::MAX), from −f32::MAX: the largest logit, kept finite. x − r is then exact where it
/// matters, so logits at ±1e4 lose nothing; −∞ contributes 0, +∞ makes the sum infinite and NaN makes it NaN; and
/// neither a row of −∞ (sum 0) nor one of −f32::MAX (sum V) is a special case.
#[derive(Debug, Clone, Copy)]
struct OnlineSum {
    reference: f32,
    sums: [f64; LANES],
}

impl OnlineSum {
    const EMPTY: OnlineSum = OnlineSum { reference: -f32::MAX, sums: [0.0; LANES] };

    #[inline(always)]
    fn add<T: Logit, S: Simd>(&mut self, simd: S, block: &[T; BLOCK]) {
        let mut x = [[simd.splat(0.0); VECTORS]; GROUPS / VECTORS];
        for (x, chunk) in x.iter_mut().zip(block.as_chunks().0) {
            *x = T::load(simd, chunk);
        }

        // NaN is passed over here and met in the sum.
        let mut largest = simd.splat(self.reference);
        for x in x.as_flattened() {
            largest = simd.max(*x, largest);
        }
        // Blocks that raise the reference are few: in random order the k-th does with probability 1/k.
        if simd.any_greater(largest, simd.splat(self.reference)) {
            self.raise_reference(simd.lanes(largest));
        }

        let reference = simd.splat(self.reference);
        let mut block_sums = simd.splat(0.0);
        for x in x {
            for term in exp(simd, each(x, |x| simd.sub(x, reference))) {
                block_sums = simd.add(block_sums, term);
            }
        }
        for (sum, term) in self.sums.iter_mut().zip(simd.lanes(block_sums)) {
            *sum += f64::from(term);
        }
    }

    /// Out of line, so that the loop over blocks keeps its registers.
    #[cold]
    #[inline(never)]
    fn raise_reference(&mut self, candidates: [f32; LANES]) {
        let raised = candidates.into_iter().fold(self.reference, f32::max).min(f32::MAX);
        let shrink = (f64::from(self.reference) - f64::from(raised)).exp();
        self.sums = self.sums.map(|sum| sum * shrink);
        self.reference = raised;
    }
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

    #[inline(always)]
    fn softmax<S: Simd, const N: usize>(&self, simd: S, z: [S::F32s; N]) -> [S::F32s; N] {
        // z − logsumexp is exact near the largest logits, and the residual restores what logsumexp had lost.
        let shifted = each(z, |z| simd.sub(z, simd.splat(self.logsumexp)));
        exp(simd, each(shifted, |x| simd.sub(x, simd.splat(self.residual))))
    }

    #[inline(always)]
    fn at_label<S: Simd>(&self, simd: S, z: f32) -> f32 {
        let [softmax] = self.softmax(simd, [simd.splat(z)]);
        // Not c·(1 − p): where c is infinite, c − c·p is NaN, as from PyTorch's log_softmax.
        self.coef - self.coef * simd.lanes(softmax)[0]
    }

    #[inline(always)]
    fn elsewhere<T: Logit, S: Simd>(&self, simd: S, chunk: &[T; CHUNK]) -> T::Packed<S> {
        let softmax = self.softmax(simd, T::load(simd, chunk));
        T::pack(simd, each(softmax, |p| simd.mul(simd.splat(-self.coef), p)))
    }

    /// Puts the gradient of columns that are not the label's where their logits are.
    #[inline(always)]
    fn in_place<T: Logit, S: Simd>(&self, simd: S, columns: &mut [T]) {
        let (chunks, tail) = columns.as_chunks_mut();
        for chunk in chunks {
            store::<T, S>(self.elsewhere(simd, chunk), chunk);
        }
        if !tail.is_empty() {
            let mut chunk = [T::from_f32(0.0); CHUNK];
            chunk[..tail.len()].copy_from_slice(tail);
            store::<T, S>(self.elsewhere(simd, &chunk), &mut chunk);
            tail.copy_from_slice(&chunk[..tail.len()]);
        }
    }

    /// The same in another place; `out` begins at an address that streaming stores can take, if `STREAM`.
    #[inline(always)]
    fn apart<T: Logit, S: Simd, const STREAM: bool>(&self, simd: S, logits: &[T], out: &mut [T]) {
        let ((chunks, tail), (out_chunks, out_tail)) = (logits.as_chunks(), out.as_chunks_mut());
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            let packed = self.elsewhere(simd, chunk);
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
            (y, gradient.at_label(simd, z.to_f32()))
        });

        match logits {
            Source::InPlace => gradient.in_place(simd, out),
            Source::Apart(logits) => gradient.apart::<T, S, false>(simd, logits, out),
            Source::Streamed(logits) => {
                let head = out.as_ptr().align_offset(STREAM_ALIGNMENT).min(out.len());
                let ((head, rest), (out_head, out_rest)) = (logits.split_at(head), out.split_at_mut(head));
                out_head.copy_from_slice(head);
                gradient.in_place(simd, out_head);
                gradient.apart::<T, S, true>(simd, rest, out_rest);
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
        for count in [1, 63, 64, 127, 128, 1000] {
            let row = logits::<bf16>(count);
            let sums: Vec<_> = simd::run_on_each(&SumRow(&row));
            let of = |sum: &OnlineSum| (sum.reference, sum.sums.iter().sum::<f64>());
            let (reference, portable) = of(&sums.last().expect("the portable one").1);
            let fused = &sums[..sums.len() - 1];
            for (set, sum) in fused {
                assert_eq!(sum.sums, fused[0].1.sums, "{set}, {count} logits");
                assert_eq!(sum.reference, reference, "{set}, {count} logits");
                // Each of the two is off by at most 2⁻²² from its exponentials and 7·2⁻²⁴ from its additions.
                let relative = (of(sum).1 - portable).abs() / portable;
                assert!(relative < 2.0 * 11.0 / (1 << 24) as f64, "{set}, {count} logits: {relative:e}");
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

    #[test]
    fn streaming_does_not_matter() {
        ways_to_write_agree::<f32>();
        ways_to_write_agree::<f16>();
        ways_to_write_agree::<bf16>();
    }
}
