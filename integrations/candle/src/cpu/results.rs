//! Results in host memory, and on their way from there to tensors.

use std::convert::Infallible;

use candle_core::{Device, Error, Tensor, WithDType};
use dpo_kernels::memory::{Conversion, Field, HostMemory, Memory, Record};

use crate::no_gradient::NoGradient;
use crate::selection::Selection;
use crate::targets::Targets;
use crate::tensors::{Pending, Tensors};

/// Vectors and records on the host, whose lengths a pass makes right. What is `None` is not wanted.
#[derive(Debug)]
pub(super) enum HostArrays {}

impl Memory for HostArrays {
    type Number = f32;
    type Floats = Option<Vec<f32>>;
    type Counts = Option<Vec<u32>>;
    type Record<T: Record> = Option<T>;
}

impl HostMemory for HostArrays {
    fn floats(_: Field, len: usize, to: &mut Option<Vec<f32>>) -> dpo_kernels::Result<Option<&mut [f32]>> {
        Ok(to.as_mut().map(|to| resized(to, len)))
    }

    fn counts(_: Field, len: usize, to: &mut Option<Vec<u32>>) -> dpo_kernels::Result<Option<&mut [u32]>> {
        Ok(to.as_mut().map(|to| resized(to, len)))
    }

    fn record<T: Record>(to: &mut Option<T>) -> Option<&mut T> {
        to.as_mut()
    }
}

fn resized<T: Clone + Default>(to: &mut Vec<T>, len: usize) -> &mut [T] {
    to.resize(len, T::default());
    to
}

/// Makes an empty vector of each array that is wanted.
pub(super) struct Empty;

impl Conversion<Selection, HostArrays> for Empty {
    type Error = Infallible;

    fn floats(&mut self, _: Field, &wanted: &bool) -> Result<Option<Vec<f32>>, Infallible> {
        Ok(wanted.then(Vec::new))
    }

    fn counts(&mut self, _: Field, &wanted: &bool) -> Result<Option<Vec<u32>>, Infallible> {
        Ok(wanted.then(Vec::new))
    }

    fn record<T: Record>(&mut self, _: &'static str, &wanted: &bool) -> Result<Option<T>, Infallible> {
        Ok(wanted.then(T::default))
    }
}

/// Makes tensors of arrays, in the shapes that the targets give them.
pub(super) struct IntoTensors<'a> {
    targets: &'a Targets,
    no_gradient: NoGradient<'a>,
}

impl<'a> IntoTensors<'a> {
    pub fn new(no_gradient: NoGradient<'a>, targets: &'a Targets) -> Self {
        IntoTensors { targets, no_gradient }
    }

    fn tensor<T: WithDType>(&self, field: Field, values: &[T]) -> Result<Tensor, Error> {
        Tensor::from_slice(values, self.targets.shape_of(field.shape), &Device::Cpu)
    }
}

impl Conversion<HostArrays, Tensors> for IntoTensors<'_> {
    type Error = Error;

    fn floats(&mut self, field: Field, from: &Option<Vec<f32>>) -> Result<Option<Tensor>, Error> {
        let tensor = |values: &Vec<f32>| {
            let tensor = self.no_gradient.zeros(field.name, self.targets.shape_of(field.shape))?;
            tensor.slice_set(&self.tensor(field, values)?, 0, 0)?;
            Ok(tensor)
        };
        from.as_ref().map(tensor).transpose()
    }

    fn counts(&mut self, field: Field, from: &Option<Vec<u32>>) -> Result<Option<Tensor>, Error> {
        from.as_ref().map(|values| self.tensor(field, values)).transpose()
    }

    fn record<T: Record>(&mut self, _: &'static str, from: &Option<T>) -> Result<Option<Pending<T>>, Error> {
        Ok(from.map(Pending::host))
    }
}
