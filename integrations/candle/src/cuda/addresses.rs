//! Addresses of tensors in device memory.

use std::cell::RefCell;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaDevice, CudaStorage, DType, Error, Layout, Result, Storage, StorageRef, Tensor};
use dpo_kernels::LabelType;
use dpo_kernels::cuda::plan::{DeviceAddress, DeviceArray, DevicePairInputs, Inputs};

use crate::inputs::CheckedInputs;
use crate::targets::Targets;

/// Tensors whose storages stay what they are as long as this lives.
///
/// candle gives `&mut` of a tensor's storage to every in-place operation, which may put another in its place;
/// the memory that was there is freed then. So an address holds while its storage is locked, and is looked up
/// anew for each launch.
pub(super) struct LockedTensors<'a> {
    device: &'a CudaDevice,
    storages: RefCell<Vec<StorageRef<'a>>>,
}

impl<'a> LockedTensors<'a> {
    pub fn new(device: &'a CudaDevice) -> Self {
        LockedTensors { device, storages: RefCell::default() }
    }

    /// The device of all tensors.
    pub fn device(&self) -> &'a CudaDevice {
        self.device
    }

    /// Locks the storage of a tensor. The address is that of its first element.
    pub fn address(&self, tensor: &'a Tensor) -> Result<DeviceAddress> {
        let (storage, layout) = tensor.storage_and_layout();
        let address = address_in(&storage, layout, tensor.dtype(), self.device)?;
        self.storages.borrow_mut().push(storage);
        Ok(address)
    }

    /// The same with the number of elements.
    pub fn array(&self, tensor: &'a Tensor) -> Result<DeviceArray> {
        Ok(DeviceArray { address: self.address(tensor)?, len: tensor.elem_count() })
    }

    /// The same for what may be left out.
    pub fn optional(&self, tensor: &'a Option<Tensor>) -> Result<Option<DeviceAddress>> {
        tensor.as_ref().map(|tensor| self.address(tensor)).transpose()
    }

    /// What a loss is given besides log-probs.
    pub fn pair_inputs(&self, inputs: &'a CheckedInputs) -> Result<DevicePairInputs> {
        inputs.as_ref().try_map(
            |_, floats| self.array(floats),
            |_, counts| self.array(counts),
            |_, number| self.address(number),
        )
    }

    /// Logits and labels.
    pub fn inputs(&self, logits: &'a Tensor, targets: &'a Targets) -> Result<Inputs> {
        Ok(Inputs {
            dtype: element_type(logits),
            logits: self.address(logits)?,
            label_type: if targets.labels.dtype() == DType::I32 { LabelType::I32 } else { LabelType::I64 },
            labels: self.address(&targets.labels)?,
            window: None,
        })
    }
}

/// The type of logits, or of hidden states.
pub(super) fn element_type(tensor: &Tensor) -> dpo_kernels::DType {
    match tensor.dtype() {
        DType::F16 => dpo_kernels::DType::F16,
        DType::BF16 => dpo_kernels::DType::BF16,
        _ => dpo_kernels::DType::F32,
    }
}

/// Where the first element is of a tensor that nobody else has, so that it need not be locked.
pub(super) fn address(tensor: &Tensor, device: &CudaDevice) -> Result<DeviceAddress> {
    let (storage, layout) = tensor.storage_and_layout();
    address_in(&storage, layout, tensor.dtype(), device)
}

/// Checks that the storage is still on the device, of the type and at least of the size that its tensor says.
fn address_in(
    storage: &Storage,
    layout: &Layout,
    dtype: DType,
    device: &CudaDevice,
) -> Result<DeviceAddress> {
    let Storage::Cuda(storage) = storage else {
        return Err(Error::msg("expected a tensor in the memory of the operation's device"));
    };
    if !storage.device.same_device(device) {
        return Err(Error::msg("expected a tensor in the memory of the operation's device"));
    }
    match dtype {
        DType::F32 => first_element::<f32>(storage, layout),
        DType::F16 => first_element::<half::f16>(storage, layout),
        DType::BF16 => first_element::<half::bf16>(storage, layout),
        DType::U32 => first_element::<u32>(storage, layout),
        DType::I32 => first_element::<i32>(storage, layout),
        DType::I64 => first_element::<i64>(storage, layout),
        other => Err(Error::UnsupportedDTypeForOp(other, "dpo-loss")),
    }
}

/// A device of candle's has one stream, so that cudarc need not be told of reads and writes on it.
fn first_element<T: CudaDType>(storage: &CudaStorage, layout: &Layout) -> Result<DeviceAddress> {
    let slice = storage.as_cuda_slice::<T>()?;
    let end = layout.start_offset() + span(layout);
    if slice.len() < end {
        let message = format!("expected a storage of at least {end} elements, found {}", slice.len());
        return Err(Error::msg(message));
    }
    let base = slice.device_ptr(&storage.device.cuda_stream()).0;
    Ok(base + (layout.start_offset() * size_of::<T>()) as DeviceAddress)
}

/// Elements from the first of a tensor to its last, both counted.
fn span(layout: &Layout) -> usize {
    if layout.dims().contains(&0) {
        return 0;
    }
    let steps = layout.dims().iter().zip(layout.stride());
    1 + steps.map(|(&dim, &stride)| (dim - 1) * stride).sum::<usize>()
}
