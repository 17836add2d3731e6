//! The sum of a row's exponentials, in one read of the row.
//!
//! The bits of the result depend on nothing but the row and whether the processor has a fused multiply-add: the
//! number of threads, the other rows of the batch and the row's alignment make no difference.

use std::marker::PhantomData;

use super::block::{BLOCK, BLOCK_VECTORS, Block};
use super::element::Element;
use super::exp2::{EXP2, exp2};
use super::exponents::Reference;
use super::metric_sums::{MetricSums, add_lanes, total};
use super::prefetch::prefetch;
use super::simd::{Kernel, LANES, Simd};
use super::transform::VectorTransform;

/// The reference is raised when a lane's sum over a block exceeds this. Were no logit of the block above the reference,
/// each of the lane's terms would be at most 1, give or take a part in hundreds, and their sum at most half of this.
const RAISE_ABOVE: f32 = 2.0 * BLOCK_VECTORS as f32;

/// A running reference R and the running sum Σ exp(z′ − R), lane by lane, of the columns seen so far; and the sums for
/// token metrics.
///
/// The usual online softmax takes R to be the largest z′ so far, which costs a maximum for each logit. Here R is raised
/// to the largest z′ of a block only when a sum over the block exceeds [`RAISE_ABOVE`], so that no z′ is ever more
/// than ln [`RAISE_ABOVE`] above it.
///
/// R starts at the least value that it can have and never exceeds f32::MAX. So a logit of −∞ contributes 0, one of +∞
/// makes the sum infinite, and NaN makes it NaN. A row of −∞ has the sum 0 and a row of −f32::MAX the sum V; neither
/// needs code of its own. Logits near ±1e4 lose no precision: see [`Reference`].
#[derive(Debug, Clone, Copy)]
struct OnlineSum<M, K> {
    transform: M,
    reference: Reference,
    terms: [f64; LANES],
    metrics: K,
}

/// The sums over one block.
struct BlockSums<S: Simd, K: MetricSums> {
    terms: S::F32s,
    metrics: K::OfBlock<S>,
}

impl<M: VectorTransform, K: MetricSums> OnlineSum<M, K> {
    fn empty<S: Simd>(transform: M) -> Self {
        OnlineSum {
            transform,
            reference: transform.least_reference::<S>(),
            terms: [0.0; LANES],
            metrics: K::EMPTY,
        }
    }

    #[inline(always)]
    fn add<T: Element, S: Simd>(&mut self, simd: S, block: Block<'_, T>) {
        let sums = loop {
            let sums = self.block_sums(simd, block);
            // A sum of NaN does not compare as greater, and no reference would make it a number. Few blocks raise the
            // reference: in random order, the k-th block has the largest logit so far with probability 1/k.
            if !simd.any_greater(sums.terms, simd.splat(RAISE_ABOVE)) {
                break sums;
            }
            // The transform is increasing, so the largest z has the largest z′.
            let [unscaled] = self.transform.apply(simd, [block.largest(simd)]);
            if !self.raise_reference::<S>(simd.lanes(unscaled)) {
                break sums;
            }
        };
        add_lanes(simd, &mut self.terms, sums.terms);
        self.metrics.add_block(simd, sums.metrics, block);
    }

    #[inline(always)]
    fn block_sums<T: Element, S: Simd>(&self, simd: S, block: Block<'_, T>) -> BlockSums<S, K> {
        if self.reference.is_shifted() {
            self.block_sums_from::<T, S, true>(simd, block)
        } else {
            self.block_sums_from::<T, S, false>(simd, block)
        }
    }

    #[inline(always)]
    fn block_sums_from<T: Element, S: Simd, const SHIFTED: bool>(
        &self,
        simd: S,
        block: Block<'_, T>,
    ) -> BlockSums<S, K> {
        // Two sums, since an addition must wait for the one before it in the same sum.
        let [mut even, mut odd] = [simd.splat(0.0); 2];
        let mut metrics = K::empty_block(simd);
        for (i, chunk) in block.chunks().iter().enumerate() {
            let unscaled = self.transform.apply(simd, T::load(simd, chunk));
            let y = self.reference.exponents::<S, SHIFTED, _>(simd, unscaled);
            let y = block.limit(simd, i, y);
            let terms = exp2(simd, y, &EXP2);
            let [a, b, c, d] = terms;
            even = simd.add(simd.add(even, a), c);
            odd = simd.add(simd.add(odd, b), d);
            for ((term, y), unscaled) in terms.into_iter().zip(y).zip(unscaled) {
                K::add_columns(simd, &mut metrics, term, y, unscaled);
            }
        }
        BlockSums { terms: simd.add(even, odd), metrics }
    }

    /// Raises the reference to the largest of these unscaled z′. Returns false if it is there already, as it is where
    /// a logit of +∞ makes the sum infinite.
    ///
    /// It is kept out of line so that the loop over blocks has the registers to itself.
    #[cold]
    #[inline(never)]
    fn raise_reference<S: Simd>(&mut self, to: [f32; LANES]) -> bool {
        let largest = to.into_iter().fold(-f32::MAX, f32::max).min(f32::MAX);
        let raised = Reference::new::<S>(largest, self.transform.exponent_scale());
        if raised == self.reference {
            return false;
        }
        let raise = self.transform.scaled(raised.value() - self.reference.value());
        let shrink = (-raise).exp();
        self.metrics.raise_reference(raise * std::f64::consts::LOG2_E, shrink, &self.terms);
        self.terms = self.terms.map(|sum| sum * shrink);
        self.reference = raised;
        true
    }

    /// The label comes last, to the metrics alone; its logit is `z`, in the block of this index.
    #[inline(always)]
    fn finish<S: Simd>(mut self, simd: S, z: f32, block: usize) -> RowSums<K> {
        let (unscaled, _) = self.transform.single(simd, z);
        let at_label = self.transform.scaled(unscaled.into());
        // An f64 has room for terms that are far above the reference, their squares included, but not for all.
        if at_label - self.transform.scaled(self.reference.value()) > 64.0 {
            self.raise_reference::<S>([unscaled; LANES]);
        }
        let reference = self.transform.scaled(self.reference.value());
        let label = (at_label - reference).exp();
        self.metrics.add_label(label, (at_label - reference) * std::f64::consts::LOG2_E, unscaled, z, block);
        RowSums { at_label, reference, label, others: total(&self.terms), metrics: self.metrics }
    }
}

/// Sums over a whole row.
#[derive(Debug, Clone)]
pub struct SumRow<'a, T, M, K> {
    pub row: &'a [T],
    pub target: usize,
    pub transform: M,
    pub metrics: PhantomData<K>,
}

/// What [`SumRow`] finds.
#[derive(Debug, Clone, Copy)]
pub struct RowSums<K> {
    /// z′ of the label.
    pub at_label: f64,
    /// R.
    pub reference: f64,
    /// exp(z′ − R) of the label.
    pub label: f64,
    /// Σ exp(z′ − R) over all other columns, summed apart: where the label is all but certain, log p and 1 − p are made of
    /// this, and not by subtraction.
    pub others: f64,
    /// Of all columns.
    pub metrics: K,
}

impl<T: Element, M: VectorTransform, K: MetricSums> Kernel for SumRow<'_, T, M, K> {
    type Output = RowSums<K>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowSums<K> {
        let mut sum = OnlineSum::<M, K>::empty::<S>(self.transform);
        let (blocks, _) = self.row.as_chunks();
        // Not all columns count in the block that the label stands in, nor in the last one, which may reach beyond the row.
        let with_label = self.target / BLOCK;
        let mut next = 0;
        for partial in [with_label, blocks.len()] {
            for (index, logits) in (next..).zip(blocks.get(next..partial).unwrap_or_default()) {
                prefetch(logits);
                sum.add(simd, Block { index, logits, limits: None });
            }
            let start = partial * BLOCK;
            if partial >= next && start < self.row.len() {
                let columns = &self.row[start..self.row.len().min(start + BLOCK)];
                let mut logits = [T::from_f32(0.0); BLOCK];
                logits[..columns.len()].copy_from_slice(columns);
                let mut limits = [T::from_f32(f32::NEG_INFINITY); BLOCK];
                limits[..columns.len()].fill(T::from_f32(f32::INFINITY));
                if partial == with_label {
                    logits[self.target % BLOCK] = T::from_f32(0.0);
                    limits[self.target % BLOCK] = T::from_f32(f32::NEG_INFINITY);
                }
                sum.add(simd, Block { index: partial, logits: &logits, limits: Some(&limits) });
            }
            next = partial + 1;
        }
        sum.finish(simd, self.row[self.target].to_f32(), with_label)
    }
}

impl<K> RowSums<K> {
    /// Σ exp(z′ − R) over all columns.
    pub fn sum(&self) -> f64 {
        self.others + self.label
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::Transform;
    use crate::cpu::metric_sums::NoMetrics;
    use crate::cpu::simd;
    use crate::cpu::transform::{Scaled, TransformKind};

    /// The sums of a row without a transform and without metrics, by each instruction set.
    fn sum_on_each<T: Element>(row: &[T]) -> Vec<(&'static str, RowSums<NoMetrics>)> {
        let TransformKind::Scaled(transform) = TransformKind::from(&Transform::default()) else {
            unreachable!("the default transform has no soft cap")
        };
        simd::run_on_each(&SumRow::<T, Scaled, _> { row, target: 0, transform, metrics: PhantomData })
    }

    fn logsumexp(sums: &RowSums<NoMetrics>) -> f64 {
        sums.reference + sums.sum().ln()
    }

    /// All instruction sets with a fused multiply-add give the same bits, and the portable one nearly these.
    #[test]
    fn instruction_sets_agree() {
        for count in [1, 63, 64, 255, 256, 1000] {
            // From −8 to 8, in no order.
            let logit = |i: usize| bf16::from_f32((i * 7919 % 1601) as f32 / 100.0 - 8.0);
            let row: Vec<_> = (0..count).map(logit).collect();
            let sums = sum_on_each(&row);
            let (portable, fused) = sums.split_last().expect("the portable set");
            for (set, sum) in fused {
                assert_eq!(sum.others, fused[0].1.others, "{set}, {count} logits");
                assert_eq!(sum.reference, fused[0].1.reference, "{set}, {count} logits");
                // Each of the two is off by at most 2⁻²² from its exponentials, 8·2⁻²⁴ from its additions, and 9/4 of
                // 2⁻²⁴ for each unit of z′ − R, of which there are 16 at most.
                let error = (logsumexp(sum) - logsumexp(&portable.1)).abs();
                assert!(
                    error < 2.0 * (4.0 + 8.0 + 36.0) / (1 << 24) as f64,
                    "{set}, {count} logits: {error:e}"
                );
            }
        }
    }

    /// The reference must be raised by little and by much, near and far from the start of the row, and must not
    /// hide what is not a number.
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
        for (logits, largest) in cases {
            let mut row = [f32::NEG_INFINITY; 1000];
            for &(column, logit) in logits {
                row[column] = logit;
            }
            let sum = logits.iter().map(|&(_, z)| (f64::from(z) - largest).exp()).sum::<f64>();
            let exact = if largest.is_finite() { sum.ln() + largest } else { largest };
            for (set, sums) in sum_on_each(&row) {
                let found = logsumexp(&sums);
                let near = found == exact || (found - exact).abs() < 2f64.powi(-20);
                assert!(near, "{set}: {found}, expected {exact} of {logits:?}");
            }
            row[321] = f32::NAN;
            for (set, sums) in sum_on_each(&row) {
                assert!(sums.sum().is_nan(), "{set}: NaN is lost among {logits:?}");
            }
        }
    }
}
