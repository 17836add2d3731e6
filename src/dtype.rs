//! Element types of logits.

/// Element type of logits and of their gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl DType {
    /// Every element type, for tables and tests.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The largest finite value.
    pub(crate) fn largest(self) -> f32 {
        match self {
            DType::F32 => f32::MAX,
            DType::F16 => half::f16::MAX.to_f32(),
            DType::BF16 => half::bf16::MAX.to_f32(),
        }
    }

    /// `"f32"`, `"f16"` or `"bf16"`: the suffix of the kernels' entry points.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

mod sealed {
    /// Keeps other crates from implementing [`Logit`](super::Logit).
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A Rust type that logits can have: f32, f16 and bf16, and no other.
pub trait Logit: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The element type this is.
    const DTYPE: DType;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even; beyond the largest finite value gives an infinity.
    fn from_f32(value: f32) -> Self;
}

impl Logit for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
}

macro_rules! half_logit {
    ($($half:ty => $dtype:ident),*) => {$(
        impl Logit for $half {
            const DTYPE: DType = DType::$dtype;
            fn to_f32(self) -> f32 {
                self.to_f32()
            }
            fn from_f32(value: f32) -> Self {
                <$half>::from_f32(value)
            }
        }
    )*};
}
half_logit!(half::f16 => F16, half::bf16 => BF16);
