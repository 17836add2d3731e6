//! Floating-point formats, and rounding between them in every direction that PTX has.

use crate::lanes::Lane;

/// How a result that does not fit is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    NearestEven,
    NearestAway,
    Zero,
    Down,
    Up,
}

impl Round {
    /// The rounding of a suffix such as `rn`, for results of a floating-point type.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "rn" => Round::NearestEven,
            "rna" => Round::NearestAway,
            "rz" => Round::Zero,
            "rm" => Round::Down,
            "rp" => Round::Up,
            _ => return None,
        })
    }

    /// The rounding of a suffix such as `rni`, to an integral value.
    pub(crate) fn parse_integral(name: &str) -> Option<Self> {
        name.strip_suffix('i').and_then(Round::parse)
    }

    /// Rounds to an integral value.
    pub(crate) fn integral(self, x: f64) -> f64 {
        match self {
            Round::NearestEven => x.round_ties_even(),
            Round::NearestAway => x.round(),
            Round::Zero => x.trunc(),
            Round::Down => x.floor(),
            Round::Up => x.ceil(),
        }
    }
}

/// A binary interchange format: explicit mantissa bits and exponent bits below the sign.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    mantissa: u32,
    exponent: u32,
}

impl Format {
    const F16: Format = Format { mantissa: 10, exponent: 5 };
    const BF16: Format = Format { mantissa: 7, exponent: 8 };
    const F32: Format = Format { mantissa: 23, exponent: 8 };
    const F64: Format = Format { mantissa: 52, exponent: 11 };

    /// The bits of ±`significand`·2^`scale` in this format.
    fn encode(self, negative: bool, significand: u64, scale: i32, round: Round) -> u64 {
        let sign = u64::from(negative) << (self.mantissa + self.exponent);
        if significand == 0 {
            return sign;
        }
        let lowest = 2 - (1 << (self.exponent - 1)) - self.mantissa as i32;
        let top = scale + 63 - significand.leading_zeros() as i32;
        let unit = (top - self.mantissa as i32).max(lowest);
        let shift = unit - scale;
        let units = if shift <= 0 {
            significand << -shift
        } else {
            let kept = significand.checked_shr(shift as u32).unwrap_or(0);
            let lost = u128::from(significand) - (u128::from(kept) << shift.min(64));
            let half = 1u128 << (shift.min(66) - 1);
            kept + u64::from(match round {
                Round::NearestEven => lost > half || (lost == half && kept & 1 == 1),
                Round::NearestAway => lost >= half,
                Round::Zero => false,
                Round::Down => negative && lost > 0,
                Round::Up => !negative && lost > 0,
            })
        };
        // The implicit bit of a normal number carries into the exponent field.
        let bits = (((unit - lowest) as u64) << self.mantissa) + units;
        let infinity = ((1u64 << self.exponent) - 1) << self.mantissa;
        let outward = match round {
            Round::NearestEven | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        let limit = if outward { infinity } else { infinity - 1 };
        sign | bits.min(limit)
    }

    /// The bits of `x` in this format; a NaN becomes the one that the hardware makes.
    fn narrow(self, x: f64, round: Round) -> u64 {
        let width = self.mantissa + self.exponent;
        if x.is_nan() {
            return (1 << width) - 1;
        }
        if x.is_infinite() {
            let infinity = ((1 << self.exponent) - 1) << self.mantissa;
            return u64::from(x < 0.0) << width | infinity;
        }
        let (significand, scale) = parts(x);
        self.encode(x.is_sign_negative(), significand, scale, round)
    }
}

/// `|x|` as an integer times a power of two.
fn parts(x: f64) -> (u64, i32) {
    let field = (x.to_bits() >> 52 & 0x7ff) as i32;
    let fraction = x.to_bits() & ((1 << 52) - 1);
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

/// A floating-point type of PTX.
pub(crate) trait Float: Lane + PartialOrd {
    /// The NaN that instructions return.
    const NAN: Self;
    fn widen(self) -> f64;
    fn rounded(x: f64, round: Round) -> Self;
    fn from_integer(negative: bool, magnitude: u64, round: Round) -> Self;
    fn is_nan(self) -> bool;
    fn has_sign(self) -> bool;
    /// Zero with the same sign where subnormal.
    fn flush(self) -> Self;

    /// `a + b`
    #[inline(always)]
    fn sum(a: Self, b: Self, round: Round) -> Self {
        Self::rounded(add_odd(a.widen(), b.widen(), round), round)
    }
    /// `a · b`
    #[inline(always)]
    fn product(a: Self, b: Self, round: Round) -> Self {
        Self::rounded(a.widen() * b.widen(), round)
    }
    /// `a · b + c` with one rounding.
    #[inline(always)]
    fn fused(a: Self, b: Self, c: Self, round: Round) -> Self {
        Self::rounded(add_odd(a.widen() * b.widen(), c.widen(), round), round)
    }
    /// `a / b`
    #[inline(always)]
    fn quotient(a: Self, b: Self, round: Round) -> Self {
        Self::rounded(div_odd(a.widen(), b.widen()), round)
    }
    /// `√a`
    #[inline(always)]
    fn root(a: Self, round: Round) -> Self {
        Self::rounded(sqrt_odd(a.widen()), round)
    }
}

/// Takes the machine's own operation where the rounding is the machine's own. (For f64 it is the only one:
/// the decoder refuses the others, which need more than f64 to compute in.)
macro_rules! native_arithmetic {
    ($($name:ident($($arg:ident),+; $round:ident) $wide:expr, $native:expr;)*) => {$(
        #[inline(always)]
        fn $name($($arg: Self),+, $round: Round) -> Self {
            if $round == Round::NearestEven {
                return $native;
            }
            let exact = {
                $(let $arg = $arg.widen();)+
                $wide
            };
            Self::rounded(exact, $round)
        }
    )*};
}

macro_rules! native_float {
    ($ty:ty, $bits:ty, $format:expr) => {
        impl Float for $ty {
            const NAN: Self = <$ty>::from_bits(<$bits>::MAX >> 1);
            #[inline(always)]
            fn widen(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn rounded(x: f64, round: Round) -> Self {
                if round == Round::NearestEven && !x.is_nan() {
                    return x as $ty;
                }
                <$ty>::from_bits($format.narrow(x, round) as $bits)
            }
            fn from_integer(negative: bool, magnitude: u64, round: Round) -> Self {
                <$ty>::from_bits($format.encode(negative, magnitude, 0, round) as $bits)
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
            #[inline(always)]
            fn has_sign(self) -> bool {
                self.is_sign_negative()
            }
            #[inline(always)]
            fn flush(self) -> Self {
                if self.abs() < <$ty>::MIN_POSITIVE { (0.0 as $ty).copysign(self) } else { self }
            }
            native_arithmetic! {
                sum(a, b; round) add_odd(a, b, round), a + b;
                product(a, b; round) a * b, a * b;
                fused(a, b, c; round) add_odd(a * b, c, round), a.mul_add(b, c);
                quotient(a, b; round) div_odd(a, b), a / b;
                root(a; round) sqrt_odd(a), a.sqrt();
            }
        }
    };
}

native_float!(f32, u32, Format::F32);
native_float!(f64, u64, Format::F64);

macro_rules! half_float {
    ($name:ident, $doc:literal, $format:expr) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub u16);

        impl Lane for $name {
            const WIDE: bool = false;
            #[inline(always)]
            fn from_words(low: u32, _: u32) -> Self {
                $name(low as u16)
            }
            #[inline(always)]
            fn into_words(self) -> (u32, u32) {
                (u32::from(self.0), 0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                self.widen().partial_cmp(&other.widen())
            }
        }

        impl Float for $name {
            const NAN: Self = $name(0x7fff);
            fn widen(self) -> f64 {
                let (mantissa, exponent) = ($format.mantissa, $format.exponent);
                let fraction = u64::from(self.0) & ((1 << mantissa) - 1);
                let field = u64::from(self.0) >> mantissa & ((1 << exponent) - 1);
                let bias = (1i32 << (exponent - 1)) - 1;
                let sign = if self.has_sign() { -1.0 } else { 1.0 };
                if field == (1 << exponent) - 1 {
                    return if fraction == 0 { sign * f64::INFINITY } else { f64::NAN };
                }
                let (significand, power) = match field {
                    0 => (fraction, 1),
                    _ => (fraction | 1 << mantissa, field as i32),
                };
                let scale = power - bias - mantissa as i32;
                sign * significand as f64 * f64::from_bits(((scale + 1023) as u64) << 52)
            }
            fn rounded(x: f64, round: Round) -> Self {
                $name($format.narrow(x, round) as u16)
            }
            fn from_integer(negative: bool, magnitude: u64, round: Round) -> Self {
                $name($format.encode(negative, magnitude, 0, round) as u16)
            }
            fn is_nan(self) -> bool {
                self.widen().is_nan()
            }
            fn has_sign(self) -> bool {
                self.0 >> 15 != 0
            }
            fn flush(self) -> Self {
                let normal = self.0 >> $format.mantissa & ((1 << $format.exponent) - 1) != 0;
                if normal { self } else { $name(self.0 & 0x8000) }
            }
        }
    };
}

half_float!(F16, "IEEE binary16.", Format::F16);
half_float!(Bf16, "The upper half of a binary32.", Format::BF16);

/// Two halves in one register, the first in the low bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<T>(pub T, pub T);

impl<T: Lane> Lane for Packed<T> {
    const WIDE: bool = false;
    fn from_words(low: u32, _: u32) -> Self {
        Packed(T::from_words(low & 0xffff, 0), T::from_words(low >> 16, 0))
    }
    fn into_words(self) -> (u32, u32) {
        (self.0.into_words().0 | self.1.into_words().0 << 16, 0)
    }
}

/// Moves an inexact `x` to the neighbour with an odd last bit on the side of `error`. A result rounded to odd
/// in f64 rounds to a narrower format as the exact result would.
fn to_odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || !error.is_finite() || x.to_bits() & 1 == 1 {
        return x;
    }
    let outward = (error > 0.0) == (x > 0.0);
    f64::from_bits(if outward { x.to_bits() + 1 } else { x.to_bits() - 1 })
}

/// `a + b`, rounded to odd. Opposites cancel to the zero that the rounding asks for.
fn add_odd(a: f64, b: f64, round: Round) -> f64 {
    let sum = a + b;
    if sum == 0.0 && round == Round::Down && (a.is_sign_negative() || b.is_sign_negative()) {
        return -0.0;
    }
    let part = sum - a;
    to_odd(sum, (a - (sum - part)) + (b - part))
}

/// `a / b` for operands of at most 24 significant bits, rounded to odd.
fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -rest } else { rest })
}

/// The square root of a value of at most 24 significant bits, rounded to odd.
fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    to_odd(root, (-root).mul_add(root, a))
}

/// The smaller or the larger of two values, as `min` and `max` define it: a NaN loses unless `propagate`,
/// and −0 is smaller than +0.
#[inline(always)]
pub(crate) fn extreme<T: Float>(a: T, b: T, want_max: bool, propagate: bool) -> T {
    if a.is_nan() || b.is_nan() {
        let other = if a.is_nan() { b } else { a };
        return if propagate || other.is_nan() { T::NAN } else { other };
    }
    let a_is_smaller = if a == b { a.has_sign() } else { a < b };
    if a_is_smaller != want_max { a } else { b }
}

/// Clamped to [0, 1], NaN to 0, as `.sat` asks.
#[inline(always)]
pub(crate) fn saturate<T: Float>(x: T) -> T {
    let wide = x.widen();
    if wide > 0.0 && wide < 1.0 { x } else { T::rounded(if wide >= 1.0 { 1.0 } else { 0.0 }, Round::Zero) }
}
