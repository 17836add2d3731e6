//! One row of logits: its log-softmax at the label, and the gradient of that.
//!
//! A row is cut into blocks, chunks and lanes by index alone: the bits of the result depend on nothing but the row and
//! on whether the processor has a fused multiply-add, whatever the row's alignment, its neighbours and the number of
//! threads.

use super::element::{CHUNK, Element, VECTORS, prefetch, store, stream};
use super::exp::{EXP2, Reference, each_two, exp2};
use super::simd::{self, Kernel, LANES, Simd};
use super::transform::{TransformKind, VectorTransform, with_transform};
use crate::dtype::Logit;

/// Vectors of a block. A lane adds up this many f32 terms, in two halves, before the block's sum goes on in f64, so the
/// rounding of a row's sum is bounded by this number, not by the vocabulary.
const GROUPS: usize = 16;

/// Logits of a block.
const BLOCK: usize = GROUPS * LANES;

/// What a lane of a block can only add up to if a logit is above the reference, by ln 2 at the least: a term at the
/// reference is 1 within a part in hundreds.
const HIGH: f32 = 2.0 * GROUPS as f32;

/// `logps` of one scored row.
#[derive(Debug, Clone, Copy)]
pub struct RowLogp {
    /// z[y] − logsumexp.
    pub logp: f32,
    /// log Σ exp z, rounded to f32.
    pub logsumexp: f32,
    /// What that rounding took away.
    pub residual: f32,
}

/// What is done with a row of each type of logits.
///
/// These are no generic functions, so that they are compiled here: generic ones would be anew in every crate that calls
/// them, for minutes, each for every set of instructions and every transform.
pub trait Rows: Element {
    /// Log-softmax of `row` at column `target`.
    fn logp(row: &[Self], target: usize, transform: TransformKind) -> RowLogp;

    /// The same, and what else the read of the row tells.
    fn logp_and_metrics(row: &[Self], target: usize, transform: TransformKind) -> (RowLogp, RowMetrics);

    /// Writes the gradient of a row; past the caches if `streamed`, but not over its own logits, which are in them.
    fn write_gradient(gradient: RowGradient, logits: Source<'_, Self>, streamed: bool, out: &mut [Self]);

    /// Writes the gradient of a row that nobody reads: 0. It goes past the caches if `streamed`, also where the logits are:
    /// they have not been read either.
    fn write_zeros(out: &mut [Self], streamed: bool);
}

macro_rules! rows {
    ($($logit:ty),*) => {$(
        impl Rows for $logit {
            fn logp(row: &[Self], target: usize, transform: TransformKind) -> RowLogp {
                with_transform!(transform, transform => simd::run(SumRow::<_, _, false> { row, target, transform })).logp()
            }

            fn logp_and_metrics(row: &[Self], target: usize, transform: TransformKind) -> (RowLogp, RowMetrics) {
                let sums = with_transform!(transform, transform => simd::run(SumRow::<_, _, true> { row, target, transform }));
                let logp = sums.logp();
                (logp, sums.metrics(row, target, logp.logp))
            }

            fn write_gradient(
                gradient: RowGradient,
                logits: Source<'_, Self>,
                streamed: bool,
                out: &mut [Self],
            ) {
                let gradient = gradient.without_payloads();
                with_transform!(gradient.transform, transform => simd::run(WriteRow { gradient, transform, logits, streamed, out }));
            }

            fn write_zeros(out: &mut [Self], streamed: bool) {
                if streamed {
                    simd::run(StreamZeros { out });
                } else {
                    out.fill(Self::from_f32(0.0));
                }
            }
        }
    )*};
}
rows!(f32, half::f16, half::bf16);

impl RowLogp {
    /// A row that is not scored.
    pub const NOT_SCORED: RowLogp = RowLogp { logp: 0.0, logsumexp: 0.0, residual: 0.0 };

    /// A row whose label is out of range. Its logsumexp is NaN so that `backward` makes the row's gradient NaN.
    pub const BAD_LABEL: RowLogp = RowLogp { logp: f32::NAN, logsumexp: f32::NAN, residual: 0.0 };
}

/// Running reference R and Σ exp(z′ − R), lane by lane, of the logits seen so far; with `METRICS`, what else is summed.
///
/// R is no more than ln [`HIGH`] below the largest z′: it is raised to that of a block when a sum of the block gets
/// so high, which spares the look at each logit. It starts at the least there is and is never above f32::MAX, so −∞
/// contributes 0, +∞ makes the sum infinite and NaN makes it NaN; and neither a row of −∞ (sum 0) nor one of −f32::MAX
/// (sum V) is a special case. Logits at ±1e4 lose nothing: [`Reference`].
#[derive(Debug, Clone, Copy)]
struct OnlineSum<M, const METRICS: bool> {
    transform: M,
    reference: Reference,
    sums: [f64; LANES],
    metric_sums: MetricSums,
}

/// With y = (z′ − R) log₂ e and e = 2^y, lane by lane; and the largest logit.
#[derive(Debug, Clone, Copy)]
struct MetricSums {
    /// Σ e·y
    weighted: [f64; LANES],
    /// Σ e²
    squares: [f64; LANES],
    /// Σ of unscaled z′
    total: [f64; LANES],
    /// The largest logit z, and the block that it is first met in.
    largest: f32,
    found_in: usize,
}

/// What a block adds, lane by lane; all but the first with `METRICS` only.
struct BlockSums<S: Simd> {
    terms: S::F32s,
    weighted: S::F32s,
    squares: S::F32s,
    total: S::F32s,
}

/// e·y is 0 where e is, and y may be −∞ there: from here down, e is 0.
const DEEPEST: f32 = -152.0;

impl<M: VectorTransform, const METRICS: bool> OnlineSum<M, METRICS> {
    fn empty<S: Simd>(transform: M) -> Self {
        let [weighted, squares, total] = [[0.0; LANES]; 3];
        let metric_sums = MetricSums { weighted, squares, total, largest: f32::NEG_INFINITY, found_in: 0 };
        OnlineSum { transform, reference: transform.lowest::<S>(), sums: [0.0; LANES], metric_sums }
    }

    /// Adds a block, the `index`-th. `outside` is ∞ where there is a logit, and −∞ where the row has ended.
    #[inline(always)]
    fn add<T: Logit, S: Simd>(
        &mut self,
        simd: S,
        index: usize,
        block: &[T; BLOCK],
        outside: Option<&[T; BLOCK]>,
    ) {
        let sums = loop {
            let sums = self.block_sums(simd, block, outside);
            // Not where it is NaN, which no reference makes a number. Such blocks are few: in random order the k-th has
            // the largest logit so far with probability 1/k.
            if !simd.any_greater(sums.terms, simd.splat(HIGH)) {
                break sums;
            }
            // z′ grows with z.
            let [unscaled] = self.transform.apply(simd, [largest(simd, block, outside)]);
            if !self.raise_reference::<S>(simd.lanes(unscaled)) {
                break sums;
            }
        };
        let add = |to: &mut [f64; LANES], block: S::F32s| {
            for (sum, term) in to.iter_mut().zip(simd.lanes(block)) {
                *sum += f64::from(term);
            }
        };
        add(&mut self.sums, sums.terms);
        if METRICS {
            add(&mut self.metric_sums.weighted, sums.weighted);
            add(&mut self.metric_sums.squares, sums.squares);
            add(&mut self.metric_sums.total, sums.total);
            let largest = largest(simd, block, outside);
            if simd.any_greater(largest, simd.splat(self.metric_sums.largest)) {
                self.metric_sums.largest =
                    simd.lanes(largest).into_iter().fold(self.metric_sums.largest, f32::max);
                self.metric_sums.found_in = index;
            }
        }
    }

    #[inline(always)]
    fn block_sums<T: Logit, S: Simd>(
        &self,
        simd: S,
        block: &[T; BLOCK],
        outside: Option<&[T; BLOCK]>,
    ) -> BlockSums<S> {
        if self.reference.is_shifted() {
            self.block_sums_from::<T, S, true>(simd, block, outside)
        } else {
            self.block_sums_from::<T, S, false>(simd, block, outside)
        }
    }

    #[inline(always)]
    fn block_sums_from<T: Logit, S: Simd, const SHIFTED: bool>(
        &self,
        simd: S,
        block: &[T; BLOCK],
        outside: Option<&[T; BLOCK]>,
    ) -> BlockSums<S> {
        let [mut even, mut odd, mut weighted, mut squares, mut total] = [simd.splat(0.0); 5];
        for (i, chunk) in block.as_chunks().0.iter().enumerate() {
            let unscaled = self.transform.apply(simd, T::load(simd, chunk));
            let mut y = self.reference.exponents::<S, SHIFTED, _>(simd, unscaled, self.transform.powers());
            if let Some(outside) = outside {
                y = each_two(y, T::load(simd, &outside.as_chunks().0[i]), |y, limit| simd.min(limit, y));
            }
            let terms = exp2(simd, y, &EXP2);
            let [a, b, c, d] = terms;
            even = simd.add(simd.add(even, a), c);
            odd = simd.add(simd.add(odd, b), d);
            if METRICS {
                for (e, y) in terms.into_iter().zip(y) {
                    weighted = simd.mul_add(e, simd.max(y, simd.splat(DEEPEST)), weighted);
                    squares = simd.mul_add(e, e, squares);
                }
                for unscaled in unscaled {
                    total = simd.add(total, unscaled);
                }
            }
        }
        BlockSums { terms: simd.add(even, odd), weighted, squares, total }
    }

    /// To the largest unscaled z′ of these; false if it is there already, which leaves an infinite sum infinite. Out of line,
    /// so that the loop over blocks keeps its registers.
    #[cold]
    #[inline(never)]
    fn raise_reference<S: Simd>(&mut self, to: [f32; LANES]) -> bool {
        let powers = self.transform.powers();
        let raised = Reference::new::<S>(to.into_iter().fold(-f32::MAX, f32::max).min(f32::MAX), powers);
        if raised == self.reference {
            return false;
        }
        let by = self.transform.scaled(raised.value(powers) - self.reference.value(powers));
        let shrink = (-by).exp();
        if METRICS {
            // Every y is less by `by` log₂ e, and every e smaller by `shrink`.
            let by = by * std::f64::consts::LOG2_E;
            for (weighted, sum) in self.metric_sums.weighted.iter_mut().zip(self.sums) {
                *weighted = shrink * *weighted - shrink * by * sum;
            }
            self.metric_sums.squares = self.metric_sums.squares.map(|sum| sum * shrink * shrink);
        }
        self.sums = self.sums.map(|sum| sum * shrink);
        self.reference = raised;
        true
    }
}

/// The largest logit of a block, lane by lane, NaN passed over.
#[inline(always)]
fn largest<T: Logit, S: Simd>(simd: S, block: &[T; BLOCK], outside: Option<&[T; BLOCK]>) -> S::F32s {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for (i, chunk) in block.as_chunks().0.iter().enumerate() {
        let mut x = T::load(simd, chunk);
        if let Some(outside) = outside {
            x = each_two(x, T::load(simd, &outside.as_chunks().0[i]), |x, limit| simd.min(limit, x));
        }
        for x in x {
            largest = simd.max(x, largest);
        }
    }
    largest
}

/// The sum over a whole row, in one pass over it.
#[derive(Clone)]
struct SumRow<'a, T, M, const METRICS: bool> {
    row: &'a [T],
    target: usize,
    transform: M,
}

impl<T: Logit, M: VectorTransform, const METRICS: bool> Kernel for SumRow<'_, T, M, METRICS> {
    type Output = RowSums;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowSums {
        let mut sum = OnlineSum::<M, METRICS>::empty::<S>(self.transform);
        let (blocks, tail) = self.row.as_chunks::<BLOCK>();
        for (index, block) in blocks.iter().enumerate() {
            prefetch(block);
            sum.add(simd, index, block, None);
        }
        if !tail.is_empty() {
            let mut block = [T::from_f32(0.0); BLOCK];
            block[..tail.len()].copy_from_slice(tail);
            let mut outside = [T::from_f32(f32::NEG_INFINITY); BLOCK];
            outside[..tail.len()].fill(T::from_f32(f32::INFINITY));
            sum.add(simd, blocks.len(), &block, Some(&outside));
        }
        let whole = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
        let (at_label, _) = self.transform.single(simd, self.row[self.target].to_f32());
        RowSums {
            at_label: self.transform.scaled(at_label.into()),
            reference: self.transform.scaled(sum.reference.value(self.transform.powers())),
            sum: whole(sum.sums),
            weighted: whole(sum.metric_sums.weighted) / std::f64::consts::LOG2_E,
            squares: whole(sum.metric_sums.squares),
            total: self.transform.scaled(whole(sum.metric_sums.total)),
            largest: sum.metric_sums.largest,
            found_in: sum.metric_sums.found_in,
        }
    }
}

/// What a row's sums come to.
#[derive(Debug, Clone, Copy)]
struct RowSums {
    /// z′ of the label.
    at_label: f64,
    reference: f64,
    /// Σ e, with e = exp(z′ − R).
    sum: f64,
    /// Σ e·(z′ − R)
    weighted: f64,
    squares: f64,
    total: f64,
    largest: f32,
    found_in: usize,
}

impl RowSums {
    fn logsumexp(&self) -> f64 {
        self.reference + self.sum.ln()
    }

    fn logp(&self) -> RowLogp {
        let ln_sum = self.sum.ln();
        let logsumexp = self.logsumexp() as f32;
        // In this order nothing is lost even where ln s is below the last bit of an f64 reference.
        let lost = (self.reference - f64::from(logsumexp)) + ln_sum;
        let residual = if logsumexp.is_finite() { lost as f32 } else { 0.0 };

        // Subtract the large numbers from each other first: near ±1e4 their difference is exact, while
        // logsumexp is not.
        let logp = (self.at_label - self.reference) - ln_sum;
        // No probability is above 1, and a sum that was rounded down must not make one. NaN stays.
        let logp = if logp > 0.0 { 0.0 } else { logp as f32 };
        RowLogp { logp, logsumexp, residual }
    }

    fn metrics<T: Logit>(&self, row: &[T], target: usize, logp: f32) -> RowMetrics {
        // The block that had the largest logit first is where it stands first.
        let block = &row[self.found_in * BLOCK..];
        let first = block.iter().position(|z| z.to_f32() == self.largest).unwrap_or(0);
        let correct = self.found_in * BLOCK + first == target && !logp.is_nan();
        // −Σ p log p = ln s − Σ p·(z′ − R). As little as no probability is above 1, this is below 0. NaN stays.
        let entropy = self.sum.ln() - self.weighted / self.sum;
        RowMetrics {
            entropy: if entropy < 0.0 { 0.0 } else { entropy as f32 },
            correct: f32::from(u8::from(correct)),
            mean_logit: (self.total / row.len() as f64) as f32,
            sum_p2: (self.squares / (self.sum * self.sum)) as f32,
        }
    }
}

/// What one read of a scored row tells beside its log-prob: an entry of [`TokenMetrics`](crate::TokenMetrics).
#[derive(Debug, Clone, Copy)]
pub struct RowMetrics {
    pub entropy: f32,
    pub correct: f32,
    pub mean_logit: f32,
    pub sum_p2: f32,
}

impl RowMetrics {
    pub const NOT_SCORED: RowMetrics =
        RowMetrics { entropy: 0.0, correct: 0.0, mean_logit: 0.0, sum_p2: 0.0 };

    pub const BAD_LABEL: RowMetrics =
        RowMetrics { entropy: f32::NAN, correct: 0.0, mean_logit: f32::NAN, sum_p2: f32::NAN };
}

/// What [`stream`] asks of an address.
const STREAM_ALIGNMENT: usize = 64;

/// Where the logits of a gradient are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a, T> {
    /// Where the gradient is to be.
    InPlace,
    /// In another buffer.
    Separate(&'a [T]),
}

/// `backward` of one scored row: (c·1[v = y] − c·p[v])·∂z′/∂z, with p = exp((z′ − logsumexp) − residual).
#[derive(Debug, Clone, Copy)]
pub struct RowGradient {
    /// The column of the label, or none where it is a bad one.
    pub target: Option<usize>,
    pub logsumexp: f32,
    pub residual: f32,
    /// c.
    pub coef: f32,
    pub transform: TransformKind,
}

impl RowGradient {
    /// What is packed into 16 bits may be NaN, but one without a payload.
    fn without_payloads(self) -> Self {
        let plain = |x: f32| if x.is_nan() { f32::NAN } else { x };
        RowGradient {
            logsumexp: plain(self.logsumexp),
            residual: plain(self.residual),
            coef: plain(self.coef),
            ..self
        }
    }

    /// Whether every element is certain to be finite in a type that reaches up to `largest`. Half of that leaves room
    /// for rounding.
    pub fn stays_below(&self, largest: f32) -> bool {
        let scale = with_transform!(self.transform, transform => transform.scale());
        (self.coef * scale).abs() <= 0.5 * largest && self.logsumexp.is_finite()
    }

    /// The gradient at the label, whose logit is z.
    #[inline(always)]
    fn at_label<S: Simd, M: VectorTransform>(&self, simd: S, transform: M, z: f32) -> f32 {
        let (unscaled, slope) = transform.single(simd, z);
        let softmax = ((transform.scaled(unscaled.into()) - f64::from(self.logsumexp))
            - f64::from(self.residual))
        .exp();
        let coef = f64::from(self.coef);
        // Not c·(1 − p): where c is infinite, c − c·p is NaN, as from PyTorch's log_softmax.
        ((coef - coef * softmax) * f64::from(transform.scale()) * f64::from(slope)) as f32
    }

    fn other_columns<S: Simd, M: VectorTransform>(&self, transform: M) -> OtherColumns<M> {
        let reference = Reference::new::<S>(self.logsumexp / transform.deferred_scale(), transform.powers());
        // p = exp(z′ − R) exp((R − logsumexp) − residual), the second a factor of the whole row.
        let rounding = if self.logsumexp.is_finite() {
            transform.scaled(reference.value(transform.powers())) - f64::from(self.logsumexp)
        } else {
            0.0
        };
        let factor = (rounding - f64::from(self.residual)).exp();
        let factor = (-f64::from(self.coef) * factor * f64::from(transform.scale())) as f32;
        OtherColumns { transform, reference, factor }
    }
}

/// The gradient of columns that are not the label's: −c·p·∂z′/∂z = factor·exp(z′ − R)·slope.
#[derive(Debug, Clone, Copy)]
struct OtherColumns<M> {
    transform: M,
    reference: Reference,
    factor: f32,
}

impl<M: VectorTransform> OtherColumns<M> {
    #[inline(always)]
    fn write<T: Logit, S: Simd, const SHIFTED: bool>(
        &self,
        simd: S,
        logits: Source<'_, T>,
        streamed: bool,
        out: &mut [T],
    ) {
        match logits {
            Source::InPlace => self.in_place::<T, S, SHIFTED>(simd, out),
            Source::Separate(logits) if !streamed => {
                self.into_separate::<T, S, SHIFTED, false>(simd, logits, out)
            }
            Source::Separate(logits) => {
                let head = out.as_ptr().align_offset(STREAM_ALIGNMENT).min(out.len());
                let ((head, rest), (out_head, out_rest)) = (logits.split_at(head), out.split_at_mut(head));
                out_head.copy_from_slice(head);
                self.in_place::<T, S, SHIFTED>(simd, out_head);
                self.into_separate::<T, S, SHIFTED, true>(simd, rest, out_rest);
                simd.fence();
            }
        }
    }

    #[inline(always)]
    fn pack<T: Logit, S: Simd, const SHIFTED: bool>(&self, simd: S, chunk: &[T; CHUNK]) -> T::Packed<S> {
        let (unscaled, slopes) = self.transform.slopes(simd, T::load(simd, chunk));
        let exponents = self.reference.exponents::<S, SHIFTED, _>(simd, unscaled, self.transform.powers());
        let softmax = exp2(simd, exponents, T::GRADIENT_EXP2);
        T::pack(
            simd,
            each_two(softmax, slopes, |p, slope| simd.mul(simd.mul(simd.splat(self.factor), p), slope)),
        )
    }

    /// Puts it where the logits are.
    #[inline(always)]
    fn in_place<T: Logit, S: Simd, const SHIFTED: bool>(&self, simd: S, columns: &mut [T]) {
        let (chunks, tail) = columns.as_chunks_mut();
        for chunk in chunks {
            prefetch(chunk);
            store::<T, S>(self.pack::<T, S, SHIFTED>(simd, chunk), chunk);
        }
        if !tail.is_empty() {
            let mut chunk = [T::from_f32(0.0); CHUNK];
            chunk[..tail.len()].copy_from_slice(tail);
            store::<T, S>(self.pack::<T, S, SHIFTED>(simd, &chunk), &mut chunk);
            tail.copy_from_slice(&chunk[..tail.len()]);
        }
    }

    /// The same in another place; `out` begins at an address that streaming stores can take, if `STREAM`.
    #[inline(always)]
    fn into_separate<T: Logit, S: Simd, const SHIFTED: bool, const STREAM: bool>(
        &self,
        simd: S,
        logits: &[T],
        out: &mut [T],
    ) {
        let ((chunks, tail), (out_chunks, out_tail)) = (logits.as_chunks(), out.as_chunks_mut());
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            prefetch(chunk);
            let packed = self.pack::<T, S, SHIFTED>(simd, chunk);
            if STREAM {
                // SAFETY: chunks have a size of a multiple of 64 bytes, and the first is aligned to as many.
                unsafe { stream(simd, packed, out) }
            } else {
                store::<T, S>(packed, out);
            }
        }
        out_tail.copy_from_slice(tail);
        self.in_place::<T, S, SHIFTED>(simd, out_tail);
    }
}

struct StreamZeros<'a, T> {
    out: &'a mut [T],
}

impl<T: Logit> Kernel for StreamZeros<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head = self.out.as_ptr().align_offset(STREAM_ALIGNMENT).min(self.out.len());
        let (head, rest) = self.out.split_at_mut(head);
        let (chunks, tail) = rest.as_chunks_mut();
        for chunk in chunks {
            // SAFETY: chunks have a size of a multiple of 64 bytes, and the first is aligned to as many.
            unsafe { stream(simd, T::pack(simd, [simd.splat(0.0); VECTORS]), chunk) }
        }
        simd.fence();
        for edge in [head, tail] {
            edge.fill(T::from_f32(0.0));
        }
    }
}

struct WriteRow<'a, T, M> {
    gradient: RowGradient,
    transform: M,
    logits: Source<'a, T>,
    streamed: bool,
    out: &'a mut [T],
}

impl<T: Logit, M: VectorTransform> Kernel for WriteRow<'_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let WriteRow { gradient, transform, logits, streamed, out } = self;
        // First, since in place its logit is about to be overwritten.
        let at_label = gradient.target.map(|y| {
            let z = match logits {
                Source::InPlace => out[y],
                Source::Separate(logits) => logits[y],
            };
            (y, gradient.at_label(simd, transform, z.to_f32()))
        });

        let other_columns = gradient.other_columns::<S, M>(transform);
        if other_columns.reference.is_shifted() {
            other_columns.write::<T, S, true>(simd, logits, streamed, out);
        } else {
            other_columns.write::<T, S, false>(simd, logits, streamed, out);
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
    use crate::cpu::transform::Identity;

    /// Logits from −8 to 8, in no order.
    fn logits<T: Logit>(count: usize) -> Vec<T> {
        (0..count).map(|i| T::from_f32((i * 7919 % 1601) as f32 / 100.0 - 8.0)).collect()
    }

    /// All that have a fused multiply-add agree to the bit.
    #[test]
    fn instruction_sets_agree() {
        for count in [1, 63, 64, 255, 256, 1000] {
            let row = logits::<bf16>(count);
            let sums: Vec<_> =
                simd::run_on_each(&SumRow::<_, _, false> { row: &row, target: 0, transform: Identity });
            let logsumexp = RowSums::logsumexp;
            let portable = logsumexp(&sums.last().expect("the portable one").1);
            let fused = &sums[..sums.len() - 1];
            for (set, sum) in fused {
                assert_eq!(sum.sum, fused[0].1.sum, "{set}, {count} logits");
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
        let transform = TransformKind::Identity(Identity);
        let row = logits::<T>(3 * CHUNK + 5);
        let RowLogp { logsumexp, residual, .. } = T::logp(&row, 70, transform);
        let gradient = RowGradient { target: Some(70), logsumexp, residual, coef: -0.25, transform };
        let mut in_place = row.clone();
        T::write_gradient(gradient, Source::InPlace, false, &mut in_place);
        let zeros = vec![T::from_f32(0.0); row.len()];
        let write = |expected: &[T], place: usize, write: &dyn Fn(&mut [T])| {
            let mut out = vec![T::from_f32(0.5); place + row.len() + CHUNK];
            write(&mut out[place..][..row.len()]);
            assert_eq!(out[place..][..row.len()], *expected);
            let outside = out[..place].iter().chain(&out[place + row.len()..]);
            assert!(outside.copied().all(|x| x == T::from_f32(0.5)), "written outside of the row");
        };
        for place in 0..CHUNK {
            for streamed in [false, true] {
                write(&in_place, place, &|out| {
                    T::write_gradient(gradient, Source::Separate(&row), streamed, out)
                });
                write(&zeros, place, &|out| T::write_zeros(out, streamed));
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
            for (set, sum) in
                simd::run_on_each(&SumRow::<_, _, false> { row: &row, target: 0, transform: Identity })
            {
                let found = sum.logsumexp();
                let near = found == exact || (found - exact).abs() < 2f64.powi(-20);
                assert!(near, "{set}: {found}, expected {exact} of {logits:?}");
            }
            row[321] = f32::NAN;
            for (set, sum) in
                simd::run_on_each(&SumRow::<_, _, false> { row: &row, target: 0, transform: Identity })
            {
                assert!(sum.sum.is_nan(), "{set}: NaN is lost among {logits:?}");
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
