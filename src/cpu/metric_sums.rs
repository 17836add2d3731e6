//! What is summed over a row for its token metrics, in the same read as the sum of its exponentials: nothing, what
//! the entropy needs, or what all of them need.
//!
//! The names of the terms: y = (z′ − R) log₂ e with the row's reference R, and the term of a column is
//! exp(z′ − R) = 2^y.

use super::block::Block;
use super::element::Element;
use super::simd::{LANES, LEAST_EXPONENT, Simd};

/// Sums over a row, lane by lane.
pub trait MetricSums: Copy {
    /// The same over one block, where f32 is precise enough.
    type OfBlock<S: Simd>: Copy;

    /// The sums of no columns.
    const EMPTY: Self;

    /// The sums of no columns of a block.
    fn empty_block<S: Simd>(simd: S) -> Self::OfBlock<S>;

    /// Adds a vector of columns to the sums of their block.
    fn add_columns<S: Simd>(
        simd: S,
        sums: &mut Self::OfBlock<S>,
        term: S::F32s,
        y: S::F32s,
        unscaled: S::F32s,
    );

    /// Adds the sums of a block.
    fn add_block<T: Element, S: Simd>(&mut self, simd: S, sums: Self::OfBlock<S>, block: Block<'_, T>);

    /// Adds the label's column, which is left out of its block: its term, y, unscaled z′ and z, and the index of the block.
    fn add_label(&mut self, term: f64, y: f64, unscaled: f32, z: f32, block: usize);

    /// Makes these the sums relative to a reference that is higher by `raise`, in units of y. That multiplies every
    /// term by `shrink` = 2^−raise. `terms` are the sums of the terms before.
    fn raise_reference(&mut self, raise: f64, shrink: f64, terms: &[f64; LANES]);
}

/// Adds a block's sum to the row's, lane by lane.
#[inline(always)]
pub fn add_lanes<S: Simd>(simd: S, to: &mut [f64; LANES], block: S::F32s) {
    for (sum, term) in to.iter_mut().zip(simd.lanes(block)) {
        *sum += f64::from(term);
    }
}

/// The sum over all lanes.
pub fn total(lanes: &[f64; LANES]) -> f64 {
    lanes.iter().sum()
}

/// No token metrics.
#[derive(Debug, Clone, Copy)]
pub struct NoMetrics;

impl MetricSums for NoMetrics {
    type OfBlock<S: Simd> = ();

    const EMPTY: Self = NoMetrics;

    #[inline(always)]
    fn empty_block<S: Simd>(_: S) {}

    #[inline(always)]
    fn add_columns<S: Simd>(_: S, (): &mut (), _: S::F32s, _: S::F32s, _: S::F32s) {}

    #[inline(always)]
    fn add_block<T: Element, S: Simd>(&mut self, _: S, (): (), _: Block<'_, T>) {}

    #[inline(always)]
    fn add_label(&mut self, _: f64, _: f64, _: f32, _: f32, _: usize) {}

    #[inline(always)]
    fn raise_reference(&mut self, _: f64, _: f64, _: &[f64; LANES]) {}
}

/// The entropy alone.
#[derive(Debug, Clone, Copy)]
pub struct EntropySums {
    /// Σ term·y.
    pub weighted: [f64; LANES],
}

impl MetricSums for EntropySums {
    type OfBlock<S: Simd> = S::F32s;

    const EMPTY: Self = EntropySums { weighted: [0.0; LANES] };

    #[inline(always)]
    fn empty_block<S: Simd>(simd: S) -> S::F32s {
        simd.splat(0.0)
    }

    #[inline(always)]
    fn add_columns<S: Simd>(simd: S, weighted: &mut S::F32s, term: S::F32s, y: S::F32s, _: S::F32s) {
        // Where y is −∞ the term is 0, and their product must be 0 too. Instruction sets without an exponential of
        // their own have computed this maximum for the term already.
        let y = simd.max(simd.splat(LEAST_EXPONENT), y);
        *weighted = simd.mul_add(term, y, *weighted);
    }

    #[inline(always)]
    fn add_block<T: Element, S: Simd>(&mut self, simd: S, weighted: S::F32s, _: Block<'_, T>) {
        add_lanes(simd, &mut self.weighted, weighted);
    }

    #[inline(always)]
    fn add_label(&mut self, term: f64, y: f64, _: f32, _: f32, _: usize) {
        // As of every column.
        self.weighted[0] += term * y.max(f64::from(LEAST_EXPONENT));
    }

    #[inline(always)]
    fn raise_reference(&mut self, raise: f64, shrink: f64, terms: &[f64; LANES]) {
        for (weighted, terms) in self.weighted.iter_mut().zip(terms) {
            *weighted = shrink * *weighted - shrink * raise * terms;
        }
    }
}

/// All token metrics.
#[derive(Debug, Clone, Copy)]
pub struct AllSums {
    pub entropy: EntropySums,
    /// Σ term².
    pub squares: [f64; LANES],
    /// Σ of the unscaled z′.
    pub unscaled: [f64; LANES],
    /// The largest logit z.
    pub largest: f32,
    /// The index of the first block that contains it.
    pub largest_in: usize,
}

/// [`AllSums`] of a block, but for its largest logit.
#[derive(Debug, Clone, Copy)]
pub struct AllSumsOfBlock<S: Simd> {
    weighted: S::F32s,
    squares: S::F32s,
    unscaled: S::F32s,
}

impl MetricSums for AllSums {
    type OfBlock<S: Simd> = AllSumsOfBlock<S>;

    const EMPTY: Self = AllSums {
        entropy: EntropySums::EMPTY,
        squares: [0.0; LANES],
        unscaled: [0.0; LANES],
        largest: f32::NEG_INFINITY,
        largest_in: 0,
    };

    #[inline(always)]
    fn empty_block<S: Simd>(simd: S) -> AllSumsOfBlock<S> {
        let [weighted, squares, unscaled] = [simd.splat(0.0); 3];
        AllSumsOfBlock { weighted, squares, unscaled }
    }

    #[inline(always)]
    fn add_columns<S: Simd>(
        simd: S,
        sums: &mut AllSumsOfBlock<S>,
        term: S::F32s,
        y: S::F32s,
        unscaled: S::F32s,
    ) {
        EntropySums::add_columns(simd, &mut sums.weighted, term, y, unscaled);
        sums.squares = simd.mul_add(term, term, sums.squares);
        sums.unscaled = simd.add(sums.unscaled, unscaled);
    }

    #[inline(always)]
    fn add_block<T: Element, S: Simd>(&mut self, simd: S, sums: AllSumsOfBlock<S>, block: Block<'_, T>) {
        self.entropy.add_block(simd, sums.weighted, block);
        add_lanes(simd, &mut self.squares, sums.squares);
        add_lanes(simd, &mut self.unscaled, sums.unscaled);
        let largest = block.largest(simd);
        if simd.any_greater(largest, simd.splat(self.largest)) {
            self.largest = simd.lanes(largest).into_iter().fold(self.largest, f32::max);
            self.largest_in = block.index;
        }
    }

    #[inline(always)]
    fn add_label(&mut self, term: f64, y: f64, unscaled: f32, z: f32, block: usize) {
        self.entropy.add_label(term, y, unscaled, z, block);
        self.squares[0] += term * term;
        self.unscaled[0] += f64::from(unscaled);
        if z > self.largest || (z == self.largest && block < self.largest_in) {
            self.largest = z;
            self.largest_in = block;
        }
    }

    #[inline(always)]
    fn raise_reference(&mut self, raise: f64, shrink: f64, terms: &[f64; LANES]) {
        self.entropy.raise_reference(raise, shrink, terms);
        self.squares = self.squares.map(|sum| sum * shrink * shrink);
    }
}
