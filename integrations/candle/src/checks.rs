//! Refusals that name the argument, in candle's own error type.

use candle_core::{DType, Error, Result, Tensor};

/// `argument` names the tensor and, where there are several, the types it may have.
pub(crate) fn dtype(argument: &'static str, tensor: &Tensor, accepted: &[DType]) -> Result<()> {
    if accepted.contains(&tensor.dtype()) {
        return Ok(());
    }
    Err(Error::UnexpectedDType { msg: argument, expected: accepted[0], got: tensor.dtype() })
}

pub(crate) fn shape(argument: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    let msg = argument.to_string();
    Err(Error::UnexpectedShape { msg, expected: expected.into(), got: tensor.shape().clone() })
}

pub(crate) fn rank(argument: &str, tensor: &Tensor, expected: usize) -> Result<()> {
    if tensor.rank() == expected {
        return Ok(());
    }
    let (got, shape) = (tensor.rank(), tensor.shape().clone());
    Err(Error::UnexpectedNumberOfDims { expected, got, shape }.context(argument.to_string()))
}

pub(crate) fn same_device(argument: &'static str, tensor: &Tensor, other: &Tensor) -> Result<()> {
    if tensor.device().same_device(other.device()) {
        return Ok(());
    }
    let (lhs, rhs) = (tensor.device().location(), other.device().location());
    Err(Error::DeviceMismatchBinaryOp { lhs, rhs, op: argument })
}
