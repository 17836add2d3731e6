//! Addresses in device memory, and results there.
//!
//! Addresses are the caller's word: a plan checks that they are there, aligned and consistent, not what they point to.

use crate::error::{Error, Result};
use crate::memory::{Conversion, Field, Memory, Record};
use crate::results::{ForwardTensors, LogpsTensors, PairOutputTensors, TokenMetricTensors};
use crate::sequences::IndexArray;

/// An address in device memory (`CUdeviceptr`).
pub type DeviceAddress = u64;

/// An array in device memory, of 4-byte elements: indices are i32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceArray {
    /// Where it starts.
    pub address: DeviceAddress,
    /// Number of elements.
    pub len: usize,
}

impl IndexArray for DeviceArray {
    fn count(&self) -> usize {
        self.len
    }
}

/// Device memory, by address: f32, u32, and the records of [`params`](super::params). What is `None` is not wanted.
#[derive(Debug)]
pub enum Addresses {}

impl Memory for Addresses {
    type Number = f32;
    type Floats = Option<DeviceAddress>;
    type Counts = Option<DeviceAddress>;
    type Record<T: Record> = Option<DeviceAddress>;
}

/// Where `logps` writes in device memory. `logps` and `status` must be given.
pub type LogpsBuffers = LogpsTensors<Addresses>;

/// Where token metrics go in device memory: what is left out costs nothing.
pub type TokenMetricBuffers = TokenMetricTensors<Addresses>;

/// Where `pair_loss` writes in device memory. All of it must be given.
pub type PairOutputBuffers = PairOutputTensors<Addresses>;

/// Where `forward` writes in device memory.
pub type ForwardBuffers = ForwardTensors<Addresses>;

/// Device memory as the kernels take it: checked, and 0 for what is not wanted.
pub(super) enum KernelAddresses {}

impl Memory for KernelAddresses {
    type Number = f32;
    type Floats = DeviceAddress;
    type Counts = DeviceAddress;
    type Record<T: Record> = DeviceAddress;
}

/// Checks each address that is given.
pub(super) struct Check;

impl Conversion<Addresses, KernelAddresses> for Check {
    type Error = Error;

    fn floats(&mut self, field: Field, from: &Option<DeviceAddress>) -> Result<DeviceAddress> {
        optional(field.name, *from)
    }

    fn counts(&mut self, field: Field, from: &Option<DeviceAddress>) -> Result<DeviceAddress> {
        optional(field.name, *from)
    }

    fn record<T: Record>(
        &mut self,
        name: &'static str,
        from: &Option<DeviceAddress>,
    ) -> Result<DeviceAddress> {
        optional(name, *from)
    }
}

/// An address that must be given.
pub(super) fn address(
    argument: &'static str,
    alignment: usize,
    address: DeviceAddress,
) -> Result<DeviceAddress> {
    if address != 0 && address.is_multiple_of(alignment as u64) {
        Ok(address)
    } else {
        let expected = format!("a device address aligned to {alignment} bytes");
        Err(Error::value(argument, expected, format!("{address:#x}")))
    }
}

/// An address of 4-byte elements that may be left out: 0 then.
pub(super) fn optional(argument: &'static str, given: Option<DeviceAddress>) -> Result<DeviceAddress> {
    given.map_or(Ok(0), |given| address(argument, 4, given))
}
