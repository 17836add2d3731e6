//! `backward` of one row.

use std::marker::PhantomData;

use super::element::{CHUNK, Element, store};
use super::exp2::exp2;
use super::exponents::Reference;
use super::prefetch::prefetch;
use super::simd::{Kernel, Simd};
use super::streaming::{split_aligned, stream};
use super::transform::{TransformKind, VectorTransform};

/// Where the logits of a gradient are.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a, T> {
    /// Where the gradient will be.
    InPlace,
    /// In another buffer.
    Separate(&'a [T]),
}

/// The gradient of one scored row: (c·(1[v = y] − p[v]) − e·p[v]·(log p[v] + H))·∂z′/∂z, with
/// log p = (z′ − logsumexp) − residual.
#[derive(Debug, Clone, Copy)]
pub struct RowGradient {
    /// The column of the label, or none if the label is out of range.
    pub target: Option<usize>,
    pub logsumexp: f32,
    pub residual: f32,
    /// c.
    pub coef: f32,
    /// e and H, where the row's entropy has a gradient.
    pub entropy: Option<RowEntropy>,
    pub transform: TransformKind,
}

/// The entropy of a row, and its coefficient.
#[derive(Debug, Clone, Copy)]
pub struct RowEntropy {
    /// e = ∂L/∂H.
    pub coef: f32,
    /// H.
    pub value: f32,
}

impl RowGradient {
    /// Clears the payloads of NaNs: [`Element::pack`] takes none that did not come from the logits.
    fn without_payloads(self) -> Self {
        let clear = |x: f32| if x.is_nan() { f32::NAN } else { x };
        RowGradient {
            logsumexp: clear(self.logsumexp),
            residual: clear(self.residual),
            coef: clear(self.coef),
            entropy: self
                .entropy
                .map(|RowEntropy { coef, value }| RowEntropy { coef: clear(coef), value: clear(value) }),
            ..self
        }
    }

    /// Whether every element is certain to be finite in a type whose largest finite value is `largest`. Only half of
    /// that is allowed, which leaves room for rounding.
    pub fn stays_below(&self, largest: f32) -> bool {
        // |p log p| is below 1.
        let of_entropy = self.entropy.map_or(0.0, |entropy| (entropy.coef * (1.0 + entropy.value)).abs());
        let most = (self.coef.abs() + of_entropy) * self.transform.slope_scale();
        most <= 0.5 * largest && self.logsumexp.is_finite()
    }

    /// The gradient in the label's column, whose logit is z.
    #[inline(always)]
    fn at_label<S: Simd, M: VectorTransform>(&self, simd: S, transform: M, z: f32) -> f32 {
        let (unscaled, slope) = transform.single(simd, z);
        let logp = (transform.scaled(unscaled.into()) - f64::from(self.logsumexp)) - f64::from(self.residual);
        let coef = f64::from(self.coef);
        // c·(1 − p), where 1 − p = −(e^log p − 1) keeps its last bits where p is nearly 1. An infinite c gives NaN, as in
        // PyTorch's log_softmax, where it is c − c·p.
        let of_logp = -coef * logp.exp_m1() + 0.0 * coef;
        let of_entropy = self.entropy.map_or(0.0, |RowEntropy { coef, value }| {
            f64::from(coef) * logp.exp() * (logp.max(LEAST_LOGP) + f64::from(value))
        });
        let by_transformed = of_logp - of_entropy;
        (by_transformed * f64::from(transform.slope_scale()) * f64::from(slope)) as f32
    }

    fn other_columns<S: Simd, M: VectorTransform, F: ColumnFactor>(
        &self,
        transform: M,
    ) -> OtherColumns<M, F> {
        let logsumexp = self.logsumexp / transform.deferred_scale();
        let reference = Reference::new::<S>(logsumexp, transform.exponent_scale());
        // p = exp(z′ − R) · exp((R − logsumexp) − residual), of which the second is a factor of the whole row.
        let difference = if self.logsumexp.is_finite() {
            transform.scaled(reference.value()) - f64::from(self.logsumexp)
        } else {
            0.0
        };
        let correction = difference - f64::from(self.residual);
        let scale = correction.exp() * f64::from(transform.slope_scale());
        OtherColumns { transform, reference, factor: F::new(self, scale, correction) }
    }
}

/// What 2^y = exp(z′ − R) of a column is multiplied by.
pub trait ColumnFactor: Copy {
    /// With p = 2^y·exp(`correction`), and a `scale` that has the second factor in it.
    fn new(gradient: &RowGradient, scale: f64, correction: f64) -> Self;

    fn multiply<S: Simd>(self, simd: S, y: S::F32s, power: S::F32s) -> S::F32s;
}

/// −c: the same factor for all columns.
#[derive(Debug, Clone, Copy)]
pub struct OfLogp(f32);

impl ColumnFactor for OfLogp {
    fn new(gradient: &RowGradient, scale: f64, _: f64) -> Self {
        OfLogp((-f64::from(gradient.coef) * scale) as f32)
    }

    #[inline(always)]
    fn multiply<S: Simd>(self, simd: S, _: S::F32s, power: S::F32s) -> S::F32s {
        simd.mul(simd.splat(self.0), power)
    }
}

/// −c − e·(log p + H), which is linear in y.
#[derive(Debug, Clone, Copy)]
pub struct OfLogpAndEntropy {
    at_0: f32,
    per_y: f32,
}

impl ColumnFactor for OfLogpAndEntropy {
    fn new(gradient: &RowGradient, scale: f64, correction: f64) -> Self {
        let RowEntropy { coef, value } = gradient.entropy.unwrap_or(RowEntropy { coef: 0.0, value: 0.0 });
        let coef = f64::from(coef);
        let at_0 = f64::from(gradient.coef) + coef * (correction + f64::from(value));
        OfLogpAndEntropy {
            at_0: (-at_0 * scale) as f32,
            per_y: (-coef * scale * std::f64::consts::LN_2) as f32,
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(self, simd: S, y: S::F32s, power: S::F32s) -> S::F32s {
        // p log p is 0 where p is. Of a NaN nothing is left here, but the power is NaN too.
        let y = simd.max(y, simd.splat(LEAST_Y));
        simd.mul(simd.mul_add(y, simd.splat(self.per_y), simd.splat(self.at_0)), power)
    }
}

/// 2^y is 0 in f32 from here on down.
const LEAST_Y: f32 = -256.0;
/// p is 0 in f32 from here on down.
const LEAST_LOGP: f64 = -256.0;

/// The gradient in every column but the label's: factor·exp(z′ − R)·slope.
#[derive(Debug, Clone, Copy)]
struct OtherColumns<M, F> {
    transform: M,
    reference: Reference,
    factor: F,
}

impl<M: VectorTransform, F: ColumnFactor> OtherColumns<M, F> {
    #[inline(always)]
    fn write<T: Element, S: Simd, const SHIFTED: bool>(
        &self,
        simd: S,
        logits: Source<'_, T>,
        streamed: bool,
        out: &mut [T],
    ) {
        match logits {
            Source::InPlace => self.write_in_place::<T, S, SHIFTED>(simd, out),
            Source::Separate(logits) if streamed => {
                self.write_streamed::<T, S, SHIFTED>(simd, logits, out);
            }
            Source::Separate(logits) => self.write_separate::<T, S, SHIFTED>(simd, logits, out),
        }
    }

    /// The gradient of a chunk.
    #[inline(always)]
    fn pack<T: Element, S: Simd, const SHIFTED: bool>(&self, simd: S, logits: &[T; CHUNK]) -> T::Packed<S> {
        let (unscaled, slopes) = self.transform.slopes(simd, T::load(simd, logits));
        let y = self.reference.exponents::<S, SHIFTED, _>(simd, unscaled);
        let mut gradient = exp2(simd, y, T::GRADIENT_EXP2);
        for ((x, y), slope) in gradient.iter_mut().zip(y).zip(slopes) {
            *x = simd.mul(self.factor.multiply(simd, y, *x), slope);
        }
        T::pack(simd, gradient)
    }

    /// Overwrites logits by their gradient.
    #[inline(always)]
    fn write_in_place<T: Element, S: Simd, const SHIFTED: bool>(&self, simd: S, columns: &mut [T]) {
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

    /// Writes the gradient of logits to another buffer.
    #[inline(always)]
    fn write_separate<T: Element, S: Simd, const SHIFTED: bool>(&self, simd: S, logits: &[T], out: &mut [T]) {
        let ((chunks, tail), (out_chunks, out_tail)) = (logits.as_chunks(), out.as_chunks_mut());
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            prefetch(chunk);
            store::<T, S>(self.pack::<T, S, SHIFTED>(simd, chunk), out);
        }
        out_tail.copy_from_slice(tail);
        self.write_in_place::<T, S, SHIFTED>(simd, out_tail);
    }

    /// [`write_separate`](Self::write_separate) past the caches, but for the ends of the row.
    #[inline(always)]
    fn write_streamed<T: Element, S: Simd, const SHIFTED: bool>(&self, simd: S, logits: &[T], out: &mut [T]) {
        let (out_head, out_chunks, out_tail) = split_aligned(out);
        let (head, rest) = logits.split_at(out_head.len());
        let (chunks, tail) = rest.as_chunks();
        out_head.copy_from_slice(head);
        self.write_in_place::<T, S, SHIFTED>(simd, out_head);
        for (chunk, out) in chunks.iter().zip(out_chunks) {
            prefetch(chunk);
            stream::<T, S>(simd, self.pack::<T, S, SHIFTED>(simd, chunk), out);
        }
        out_tail.copy_from_slice(tail);
        self.write_in_place::<T, S, SHIFTED>(simd, out_tail);
        simd.fence();
    }
}

/// Writes the gradient of a whole row.
pub struct WriteGradient<'a, T, M, F> {
    pub gradient: RowGradient,
    /// Whether it has a part of the entropy.
    pub factor: PhantomData<F>,
    /// That of `gradient`.
    pub transform: M,
    pub logits: Source<'a, T>,
    pub streamed: bool,
    pub out: &'a mut [T],
}

impl<T: Element, M: VectorTransform, F: ColumnFactor> Kernel for WriteGradient<'_, T, M, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let WriteGradient { gradient, transform, logits, streamed, out, .. } = self;
        let gradient = gradient.without_payloads();
        // The label's logit is read first, because it is overwritten with the others if this is in place.
        let label = gradient.target.map(|y| match logits {
            Source::InPlace => (y, out[y]),
            Source::Separate(logits) => (y, logits[y]),
        });

        let other_columns = gradient.other_columns::<S, M, F>(transform);
        if other_columns.reference.is_shifted() {
            other_columns.write::<T, S, true>(simd, logits, streamed, out);
        } else {
            other_columns.write::<T, S, false>(simd, logits, streamed, out);
        }

        if let Some((y, z)) = label {
            out[y] = T::from_f32(gradient.at_label(simd, transform, z.to_f32()));
        }
    }
}
