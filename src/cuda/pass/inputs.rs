//! What a pass is given in cudarc's slices and views of them.

use cudarc::driver::{CudaSlice, CudaView};

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
