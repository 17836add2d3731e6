//! [`Transform`] for vectors: from logits z to z′. Each kind of it is a type, for which the kernels are compiled.

use super::exp2::{EXP2, exp2};
use super::exponents::{LOG2_E, Reference};
use super::simd::Simd;
use crate::transform::Transform;

/// One kind of transform.
///
/// A factor of z′ that is the same for every z need not be multiplied into each of them, since the exponential
/// multiplies its argument by a constant anyway. So a transform splits z′ into an *unscaled* z′ and the
/// [`deferred_scale`](Self::deferred_scale).
pub trait VectorTransform: Copy + Send + Sync {
    /// The unscaled z′ of z.
    fn apply<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> [S::F32s; N];

    /// The unscaled z′, and ∂z′/∂z without its factor [`slope_scale`](Self::slope_scale).
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]);

    /// z′ ÷ unscaled z′.
    fn deferred_scale(self) -> f32;

    /// log₂ e times the deferred scale: e^z′ = 2^(exponent_scale · unscaled z′).
    fn exponent_scale(self) -> f32;

    /// The factor of ∂z′/∂z that does not depend on z.
    fn slope_scale(self) -> f32;

    /// A reference that no unscaled z′ but −∞ is below.
    fn least_reference<S: Simd>(self) -> Reference;

    /// From an unscaled z′ to z′.
    fn scaled(self, unscaled: f64) -> f64 {
        f64::from(self.deferred_scale()) * unscaled
    }

    /// [`slopes`](Self::slopes) of a single logit, by the same arithmetic.
    #[inline(always)]
    fn single<S: Simd>(self, simd: S, z: f32) -> (f32, f32) {
        let ([unscaled], [slope]) = self.slopes(simd, [simd.splat(z)]);
        (simd.lanes(unscaled)[0], simd.lanes(slope)[0])
    }
}

/// z′ = s·z. Since all of s is deferred, s = 1 costs and computes the same as no transform at all.
#[derive(Debug, Clone, Copy)]
pub struct Scaled {
    scale: f32,
    /// s·log₂ e.
    exponent_scale: f32,
}

/// z′ = C·tanh(s·z/C).
#[derive(Debug, Clone, Copy)]
pub struct Capped {
    scale: f32,
    cap: f32,
    /// 2s·log₂ e/C.
    tanh_exponent_scale: f32,
}

/// A transform, sorted by kind.
#[derive(Debug, Clone, Copy)]
pub enum TransformKind {
    Scaled(Scaled),
    Capped(Capped),
}

impl From<&Transform> for TransformKind {
    fn from(transform: &Transform) -> Self {
        let scale = transform.scale;
        let exponent_scale = f64::from(scale) * std::f64::consts::LOG2_E;
        match transform.softcap {
            None => TransformKind::Scaled(Scaled { scale, exponent_scale: exponent_scale as f32 }),
            Some(cap) => {
                let tanh_exponent_scale = (2.0 * exponent_scale / f64::from(cap)) as f32;
                TransformKind::Capped(Capped { scale, cap, tanh_exponent_scale })
            }
        }
    }
}

/// `$body` with `$transform` of the kind that `$kind` is.
macro_rules! with_transform {
    ($kind:expr, $transform:ident => $body:expr) => {
        match $kind {
            TransformKind::Scaled($transform) => $body,
            TransformKind::Capped($transform) => $body,
        }
    };
}
pub(super) use with_transform;

impl TransformKind {
    /// [`VectorTransform::scaled`].
    pub fn scaled(self, unscaled: f64) -> f64 {
        with_transform!(self, transform => transform.scaled(unscaled))
    }

    /// [`VectorTransform::slope_scale`].
    pub fn slope_scale(self) -> f32 {
        with_transform!(self, transform => transform.slope_scale())
    }
}

impl VectorTransform for Scaled {
    #[inline(always)]
    fn apply<S: Simd, const N: usize>(self, _: S, z: [S::F32s; N]) -> [S::F32s; N] {
        z
    }

    #[inline(always)]
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]) {
        (z, [simd.splat(1.0); N])
    }

    fn deferred_scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn exponent_scale(self) -> f32 {
        self.exponent_scale
    }

    fn slope_scale(self) -> f32 {
        self.scale
    }

    fn least_reference<S: Simd>(self) -> Reference {
        Reference::least(self.exponent_scale)
    }
}

impl VectorTransform for Capped {
    #[inline(always)]
    fn apply<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> [S::F32s; N] {
        self.slopes(simd, z).0
    }

    /// With t = s·z/C and q = 1/(1 + e^(2|t|)), C·tanh t is ±C(1 − 2q), and its derivative by t is 4q(1 − q) times C.
    /// Neither form subtracts nearly equal numbers near the cap.
    #[inline(always)]
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]) {
        let one = simd.splat(1.0);
        let mut exponents = z;
        for x in &mut exponents {
            *x = magnitude(simd, simd.mul(*x, simd.splat(self.tanh_exponent_scale)));
        }
        let mut q = exp2(simd, exponents, &EXP2);
        for q in &mut q {
            *q = simd.div(one, simd.add(one, *q));
        }
        let (mut capped, mut slopes) = (q, q);
        for (x, z) in capped.iter_mut().zip(z) {
            let size = simd.mul_add(*x, simd.splat(-2.0 * self.cap), simd.splat(self.cap));
            *x = with_sign_of(simd, size, z);
        }
        for x in &mut slopes {
            *x = simd.mul(simd.splat(4.0), simd.mul(*x, simd.sub(one, *x)));
        }
        (capped, slopes)
    }

    fn deferred_scale(self) -> f32 {
        1.0
    }

    #[inline(always)]
    fn exponent_scale(self) -> f32 {
        LOG2_E
    }

    fn slope_scale(self) -> f32 {
        self.scale
    }

    fn least_reference<S: Simd>(self) -> Reference {
        Reference::new::<S>(-self.cap, LOG2_E)
    }
}

/// |x|.
#[inline(always)]
fn magnitude<S: Simd>(simd: S, x: S::F32s) -> S::F32s {
    simd.floats(simd.and(simd.bits(x), simd.splat_u32(0x7fff_ffff)))
}

/// A number that is not negative, with the sign of x.
#[inline(always)]
fn with_sign_of<S: Simd>(simd: S, size: S::F32s, x: S::F32s) -> S::F32s {
    let sign = simd.and(simd.bits(x), simd.splat_u32(0x8000_0000));
    simd.floats(simd.or(simd.bits(size), sign))
}
