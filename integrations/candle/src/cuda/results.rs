//! Results in device memory: tensors are made for them, and located for a launch.

use candle_core::{CudaDevice, DType, Device, Error, Result, Shape, Tensor};
use dpo_kernels::cuda::plan::{Addresses, DeviceAddress};
use dpo_kernels::memory::{Conversion, Field, Record};

use super::addresses::address;
use crate::no_gradient::NoGradient;
use crate::selection::Selection;
use crate::targets::Targets;
use crate::tensors::{Pending, RECORD_WORDS, Tensors};

/// Makes tensors of zeros for what is wanted. All records are in one tensor.
pub(super) struct Allocate<'a> {
    device: &'a Device,
    targets: &'a Targets,
    no_gradient: NoGradient<'a>,
    records: Tensor,
}

impl<'a> Allocate<'a> {
    /// For results on `device` of what, it may be, has a gradient.
    pub fn new(device: &'a Device, has_gradient: bool, targets: &'a Targets) -> Result<Self> {
        let records = Tensor::zeros(RECORD_WORDS, DType::U32, device)?;
        let no_gradient = NoGradient::new(device, has_gradient)?;
        Ok(Allocate { device, targets, no_gradient, records })
    }

    /// The tensor of the records.
    pub fn records(self) -> Tensor {
        self.records
    }

    fn shape(&self, field: Field) -> Shape {
        self.targets.shape_of(field.shape)
    }
}

impl Conversion<Selection, Tensors> for Allocate<'_> {
    type Error = Error;

    fn floats(&mut self, field: Field, &wanted: &bool) -> Result<Option<Tensor>> {
        wanted.then(|| self.no_gradient.zeros(field.name, self.shape(field))).transpose()
    }

    fn counts(&mut self, field: Field, &wanted: &bool) -> Result<Option<Tensor>> {
        wanted.then(|| Tensor::zeros(self.shape(field), DType::U32, self.device)).transpose()
    }

    fn record<T: Record>(&mut self, _: &'static str, &wanted: &bool) -> Result<Option<Pending<T>>> {
        Ok(wanted.then(|| Pending::device(&self.records)))
    }
}

/// Looks up where results are that nobody else has yet.
pub(super) struct Locate<'a> {
    pub device: &'a CudaDevice,
}

impl Locate<'_> {
    fn tensor(&self, from: &Option<Tensor>) -> Result<Option<DeviceAddress>> {
        from.as_ref().map(|tensor| address(tensor, self.device)).transpose()
    }
}

impl Conversion<Tensors, Addresses> for Locate<'_> {
    type Error = Error;

    fn floats(&mut self, _: Field, from: &Option<Tensor>) -> Result<Option<DeviceAddress>> {
        self.tensor(from)
    }

    fn counts(&mut self, _: Field, from: &Option<Tensor>) -> Result<Option<DeviceAddress>> {
        self.tensor(from)
    }

    fn record<T: Record>(
        &mut self,
        _: &'static str,
        from: &Option<Pending<T>>,
    ) -> Result<Option<DeviceAddress>> {
        let records = from.as_ref().and_then(Pending::records);
        let address = records.map(|records| address(records, self.device)).transpose()?;
        Ok(address.map(|address| address + T::KIND.offset() as DeviceAddress))
    }
}
