//! The one error type: every variant carries the argument it is about, what was expected, and what came.

use std::path::PathBuf;

use crate::ref_cache::problem::Problem;
use crate::status::{GradientStatus, Status};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused, or what a pass found wrong in its data.
///
/// Everything a host can see (shapes, strides, values of parameters, index arrays in host memory) is refused
/// before any work is done. What only the pass itself can see is collected in a [`Status`]; ask it with
/// [`Status::check`] to turn it into [`Error::Data`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has the wrong number of elements.
    #[error("{argument}: expected {expected} elements ({shape}), found {found}")]
    Length {
        /// Name of the argument.
        argument: &'static str,
        /// What the length stands for, e.g. `"[rows]"`.
        shape: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A parameter lies outside its domain.
    #[error("{argument}: expected {expected}, found {found}")]
    Value {
        /// Name of the argument.
        argument: &'static str,
        /// The domain, in words.
        expected: String,
        /// The value given.
        found: String,
    },
    /// An entry of an index array (cu_seqlens, chosen, rejected) is out of order or out of range.
    #[error("{argument}[{position}]: expected {expected}, found {found}")]
    Index {
        /// Name of the array.
        argument: &'static str,
        /// Position of the first offending entry.
        position: usize,
        /// What this entry may be, in words.
        expected: String,
        /// The entry.
        found: i64,
    },
    /// An argument that the call leaves out is needed because of another one.
    #[error("{argument}: required when {because}")]
    Missing {
        /// Name of the argument.
        argument: &'static str,
        /// The setting that makes it necessary.
        because: &'static str,
    },
    /// The pass met labels, logits or indices it could not score; see [`Status`].
    #[error("bad data: {0}")]
    Data(Status),
    /// `backward` wrote a gradient that is not finite; see [`GradientStatus`].
    #[error("gradient: expected finite numbers, found {0}")]
    Gradient(GradientStatus),
    /// A [cache of reference log-probs](crate::ref_cache) is not used, or a number not put into it.
    #[error("reference cache {}: {problem}", .path.display())]
    RefCache {
        /// The cache's file.
        path: PathBuf,
        /// Why.
        problem: Problem,
    },
    /// The CUDA driver library could not be loaded.
    #[cfg(feature = "cuda")]
    #[error("CUDA driver: expected one of {searched:?} to load, found none ({reason})")]
    NoDriver {
        /// Library names tried.
        searched: &'static [&'static str],
        /// What the loader said of the last one.
        reason: String,
    },
    /// There is no CUDA device with this ordinal.
    #[cfg(feature = "cuda")]
    #[error("device {ordinal}: expected an ordinal below {available}, the number of CUDA devices")]
    NoDevice {
        /// The ordinal asked for.
        ordinal: usize,
        /// How many devices the driver reports.
        available: usize,
    },
    /// No embedded kernel image can run on the device.
    #[cfg(feature = "cuda")]
    #[error(
        "kernel images: expected one for compute capability {}.{}, found {embedded:?} \
         (set DPO_KERNELS_ARCHS when building)", .device.0, .device.1
    )]
    NoImage {
        /// Compute capability of the device, (major, minor).
        device: (u32, u32),
        /// Names of the embedded images, e.g. `sm_90` or `compute_80`.
        embedded: Vec<String>,
    },
    /// An embedded kernel image does not unpack: the program's file is damaged.
    #[cfg(feature = "cuda")]
    #[error("kernel image {unit}.{target}: expected a zlib stream of {len} bytes, found {reason}")]
    DamagedImage {
        /// Source file without `.cu`.
        unit: &'static str,
        /// `sm_90`, `compute_80` and the like.
        target: String,
        /// Bytes that the image has unpacked.
        len: usize,
        /// What unpacking ended with.
        reason: String,
    },
    /// The library cuBLASLt, which multiplies matrices, could not be loaded.
    #[cfg(feature = "cuda")]
    #[error("cuBLASLt: expected one of {searched:?} to load, found none ({reason})")]
    NoCublasLt {
        /// Library names tried.
        searched: &'static [&'static str],
        /// What the loader said of each.
        reason: String,
    },
    /// A call of cuBLASLt failed.
    #[cfg(feature = "cuda")]
    #[error("{call}: expected success, found status {status}")]
    Cublas {
        /// The library's function.
        call: &'static str,
        /// `cublasStatus_t`; 15 where the library has no way to do what was asked.
        status: i32,
    },
    /// A CUDA driver call failed.
    #[cfg(feature = "cuda")]
    #[error("{call}: {message}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// The driver's name and description of the error.
        message: String,
    },
}

impl Error {
    pub(crate) fn value(argument: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Error::Value { argument, expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn check_len(
        argument: &'static str,
        shape: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<()> {
        if expected == found { Ok(()) } else { Err(Error::Length { argument, shape, expected, found }) }
    }

    pub(crate) fn check_positive(argument: &'static str, value: f64) -> Result<f64> {
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(Error::value(argument, "a finite number above 0", value))
        }
    }
}

impl Status {
    /// # Errors
    ///
    /// [`Error::Data`] with this status, unless it is clean.
    pub fn check(self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Data(self)) }
    }
}

impl GradientStatus {
    /// # Errors
    ///
    /// [`Error::Gradient`] with this status, unless it is clean.
    pub fn check(self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Gradient(self)) }
    }
}

/// candle's error with the same words, so that `?` makes it where a function returns candle's.
#[cfg(feature = "candle")]
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}
