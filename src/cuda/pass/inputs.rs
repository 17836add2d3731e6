//! What a pass is given in cudarc's slices and views of them.

use std::cell::RefCell;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, DeviceSlice, SyncOnDrop};

use crate::cuda::address::DeviceArray;
use crate::cuda::device::driver;
use crate::cuda::plan::DevicePairInputs;
use crate::error::{Error, Result};
use crate::loss::PairTensors;

/// Labels in device memory, one per row.
///
/// A slice of either type, or a view of one, turns into it by itself: the labels of a micro-batch may be a
/// part of a larger buffer.
///
/// ```no_run
/// use dpo_kernels::cuda::{DeviceLabels, context};
///
/// let stream = context(0)?.default_stream();
/// let all = stream.clone_htod(&[1i64, 2, 3, 4])?;
/// let (whole, second_half) = (DeviceLabels::from(&all), DeviceLabels::from(all.slice(2..)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub enum DeviceLabels<'a> {
    /// 32-bit labels.
    I32(CudaView<'a, i32>),
    /// 64-bit labels.
    I64(CudaView<'a, i64>),
}

impl DeviceLabels<'_> {
    /// The labels in host memory, for what has to know them there: the rows of [`LmHeadPass`](super::LmHeadPass). Waits for all that
    /// the slice's stream has to do.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`], also for faults of earlier work on the stream.
    pub fn to_host(&self) -> Result<Vec<i64>> {
        match self {
            DeviceLabels::I32(labels) => {
                let labels = driver("cuMemcpyDtoHAsync", labels.stream().clone_dtoh(labels))?;
                Ok(labels.into_iter().map(i64::from).collect())
            }
            DeviceLabels::I64(labels) => driver("cuMemcpyDtoHAsync", labels.stream().clone_dtoh(labels)),
        }
    }
}

impl Clone for DeviceLabels<'_> {
    /// The same labels again, not a copy of them.
    fn clone(&self) -> Self {
        match self {
            DeviceLabels::I32(labels) => DeviceLabels::I32(labels.slice(..)),
            DeviceLabels::I64(labels) => DeviceLabels::I64(labels.slice(..)),
        }
    }
}

impl<'a> From<&DeviceLabels<'a>> for DeviceLabels<'a> {
    fn from(labels: &DeviceLabels<'a>) -> Self {
        labels.clone()
    }
}

macro_rules! labels_of {
    ($case:ident, $element:ty) => {
        impl<'a> From<&'a CudaSlice<$element>> for DeviceLabels<'a> {
            fn from(labels: &'a CudaSlice<$element>) -> Self {
                DeviceLabels::$case(labels.as_view())
            }
        }

        impl<'a> From<CudaView<'a, $element>> for DeviceLabels<'a> {
            fn from(labels: CudaView<'a, $element>) -> Self {
                DeviceLabels::$case(labels)
            }
        }

        impl<'a> From<&CudaView<'a, $element>> for DeviceLabels<'a> {
            fn from(labels: &CudaView<'a, $element>) -> Self {
                DeviceLabels::$case(labels.slice(..))
            }
        }
    };
}
labels_of!(I32, i32);
labels_of!(I64, i64);

/// [`PairTensors`] in views of cudarc's slices; single numbers are `[1]`. A whole slice is its
/// [`as_view`](CudaSlice::as_view), and a part of one, such as a micro-batch's, its
/// [`slice`](CudaSlice::slice).
///
/// Only the kernels see the values: see [`DevicePairInputs`](crate::cuda::plan::DevicePairInputs).
///
/// ```no_run
/// use dpo_kernels::cuda::{PairSlices, context};
///
/// let stream = context(0)?.default_stream();
/// let ref_logps = stream.clone_htod(&[-5.0f32, -3.0, -5.0, -1.5])?;
/// let weight = stream.clone_htod(&[1.0f32])?;
/// let inputs = PairSlices { weight: Some(weight.as_view()), ..PairSlices::reference(ref_logps.slice(2..)) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type PairSlices<'a> = PairTensors<CudaView<'a, f32>, CudaView<'a, u32>, CudaView<'a, f32>>;

/// An address means something in its own context alone: that of a pass, which is its stream's.
pub(super) fn check_context(pass: &CudaStream, argument: &'static str, given: &CudaStream) -> Result<()> {
    if given.context() == pass.context() {
        return Ok(());
    }
    Err(Error::value(argument, "memory of the context of the pass", "memory of another"))
}

/// Hands the addresses of `inputs` to `f`, for launches on `stream`, and keeps them for as long as it runs.
pub(super) fn with_pair_inputs(
    stream: &CudaStream,
    inputs: &PairSlices<'_>,
    f: impl FnOnce(DevicePairInputs) -> Result<()>,
) -> Result<()> {
    fn hold<'a, T>(
        guards: &RefCell<Vec<SyncOnDrop<'a>>>,
        view: &'a CudaView<'_, T>,
        stream: &'a CudaStream,
    ) -> DeviceArray {
        let (address, guard) = view.device_ptr(stream);
        guards.borrow_mut().push(guard);
        DeviceArray { address, len: view.len() }
    }
    let guards = RefCell::default();
    let inputs = inputs.as_ref().try_map(
        |argument, floats| {
            check_context(stream, argument, floats.stream())?;
            Ok(hold(&guards, floats, stream))
        },
        |argument, counts| {
            check_context(stream, argument, counts.stream())?;
            Ok(hold(&guards, counts, stream))
        },
        |argument, number| {
            Error::check_len(argument, "[1]", 1, number.len())?;
            check_context(stream, argument, number.stream())?;
            Ok(hold(&guards, number, stream).address)
        },
    )?;
    f(inputs)
}
