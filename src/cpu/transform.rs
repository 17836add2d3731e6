//! From logits z to z′, as vectors: [`Transform`] for the kernels, which are compiled once for each kind of it.

use super::exp::{EXP2, LOG2_E, Reference, each, exp2};
use super::simd::Simd;
use crate::transform::Transform;

/// One kind of transform. An unscaled z′ is z′ but for a factor, [`deferred_scale`](Self::deferred_scale), that goes into the exponents.
pub(super) trait VectorTransform: Copy + Send + Sync {
    /// Unscaled z′.
    fn apply<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> [S::F32s; N];

    /// Unscaled z′, and ∂z′/∂z but for its factor [`scale`](Self::scale).
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]);

    /// The least reference: no unscaled z′ is below it, but −∞.
    fn lowest<S: Simd>(self) -> Reference {
        Reference::LOWEST
    }

    /// z′ ÷ unscaled z′.
    fn deferred_scale(self) -> f32 {
        1.0
    }

    /// The factor of ∂z′/∂z that does not depend on z.
    fn scale(self) -> f32 {
        1.0
    }

    /// Powers of two for each unscaled z′.
    #[inline(always)]
    fn powers(self) -> f32 {
        LOG2_E
    }

    /// z′ of a unscaled one.
    fn scaled(self, unscaled: f64) -> f64 {
        f64::from(self.deferred_scale()) * unscaled
    }

    /// Unscaled z′ and slope of a single logit, by the same arithmetic.
    #[inline(always)]
    fn single<S: Simd>(self, simd: S, z: f32) -> (f32, f32) {
        let ([unscaled], [slope]) = self.slopes(simd, [simd.splat(z)]);
        (simd.lanes(unscaled)[0], simd.lanes(slope)[0])
    }
}

/// z′ = z.
#[derive(Debug, Clone, Copy)]
pub struct Identity;

/// z′ = s·z.
#[derive(Debug, Clone, Copy)]
pub struct Scaled {
    scale: f32,
    /// s·log₂ e.
    powers: f32,
}

/// z′ = C·tanh(s·z/C).
#[derive(Debug, Clone, Copy)]
pub struct Capped {
    scale: f32,
    cap: f32,
    /// 2s·log₂ e/C.
    double: f32,
}

/// A transform, sorted by kind.
#[derive(Debug, Clone, Copy)]
pub enum TransformKind {
    Identity(Identity),
    Scaled(Scaled),
    Capped(Capped),
}

impl From<&Transform> for TransformKind {
    fn from(transform: &Transform) -> Self {
        let scale = transform.scale;
        let powers = f64::from(scale) * std::f64::consts::LOG2_E;
        match transform.softcap {
            Some(cap) => {
                TransformKind::Capped(Capped { scale, cap, double: (2.0 * powers / f64::from(cap)) as f32 })
            }
            None if transform.is_identity() => TransformKind::Identity(Identity),
            None => TransformKind::Scaled(Scaled { scale, powers: powers as f32 }),
        }
    }
}

/// `$body` with `$transform` of the kind that `$kind` is.
macro_rules! with_transform {
    ($kind:expr, $transform:ident => $body:expr) => {
        match $kind {
            TransformKind::Identity($transform) => $body,
            TransformKind::Scaled($transform) => $body,
            TransformKind::Capped($transform) => $body,
        }
    };
}
pub(super) use with_transform;

impl VectorTransform for Identity {
    #[inline(always)]
    fn apply<S: Simd, const N: usize>(self, _: S, z: [S::F32s; N]) -> [S::F32s; N] {
        z
    }
    #[inline(always)]
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]) {
        (z, [simd.splat(1.0); N])
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
    fn scale(self) -> f32 {
        self.scale
    }
    #[inline(always)]
    fn powers(self) -> f32 {
        self.powers
    }
}

impl VectorTransform for Capped {
    #[inline(always)]
    fn apply<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> [S::F32s; N] {
        self.slopes(simd, z).0
    }

    /// With t = s·z/C and q = 1/(1 + e^(2|t|)): ±C(1 − 2q) is C·tanh t, and 4q(1 − q) its derivative by t, without the
    /// loss of a subtraction near the cap.
    #[inline(always)]
    fn slopes<S: Simd, const N: usize>(self, simd: S, z: [S::F32s; N]) -> ([S::F32s; N], [S::F32s; N]) {
        let magnitude = |x| simd.floats(simd.and(simd.bits(x), simd.splat_u32(0x7fff_ffff)));
        let sign = |x| simd.and(simd.bits(x), simd.splat_u32(0x8000_0000));
        let one = simd.splat(1.0);
        let powers = exp2(simd, each(z, |z| magnitude(simd.mul(z, simd.splat(self.double)))), &EXP2);
        let q = each(powers, |power| simd.div(one, simd.add(one, power)));
        let mut capped = q;
        for (capped, z) in capped.iter_mut().zip(z) {
            let size = simd.mul_add(*capped, simd.splat(-2.0 * self.cap), simd.splat(self.cap));
            *capped = simd.floats(simd.or(simd.bits(size), sign(z)));
        }
        (capped, each(q, |q| simd.mul(simd.splat(4.0), simd.mul(q, simd.sub(one, q)))))
    }

    fn lowest<S: Simd>(self) -> Reference {
        Reference::new::<S>(-self.cap, LOG2_E)
    }

    fn scale(self) -> f32 {
        self.scale
    }
}
