//! Where results go: the structs of the header, each listed once into the crate's declaration of the same results, and
//! converted from there to what the CPU or a GPU writes.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ptr::NonNull;

use dpo_kernels::memory::{Conversion, Extent, Field, HostMemory, Memory, Record, SlicesMut, Unallocated};
use dpo_kernels::{Error, LogpsTensors, PairOutputTensors, Result, TokenMetricTensors};

use crate::header::*;
use crate::pointers::{pointer, read_optional, slice_mut};

/// The caller's pointers, not yet judged.
pub(crate) enum Pointers {}

impl Memory for Pointers {
    type Number = f32;
    type Floats = Output<f32>;
    type Counts = Output<u32>;
    type Record<T: Record> = RecordOutput<T>;
}

/// Where an array of `T` goes.
pub(crate) struct Output<T> {
    to: *mut T,
    required: bool,
}

impl<T> Output<T> {
    fn required(to: *mut T) -> Self {
        Output { to, required: true }
    }

    /// Not wanted where it is null.
    fn optional(to: *mut T) -> Self {
        Output { to, required: false }
    }

    fn judged(&self, argument: &'static str) -> Result<Option<NonNull<T>>> {
        (self.required || !self.to.is_null()).then(|| pointer(argument, self.to)).transpose()
    }
}

/// Where a record goes: as its counterpart in the header, whose fields are all of 4 bytes.
pub(crate) struct RecordOutput<T> {
    to: Output<u32>,
    write: unsafe fn(NonNull<u32>, T),
}

impl<T> RecordOutput<T> {
    fn required<C: From<T>>(to: *mut C) -> Self {
        const { assert!(align_of::<C>() == align_of::<u32>()) };
        /// # Safety
        ///
        /// `to` points to a `C` that can be written.
        unsafe fn write<T, C: From<T>>(to: NonNull<u32>, record: T) {
            // SAFETY: the caller's promise.
            unsafe { to.cast::<C>().write(record.into()) };
        }
        RecordOutput { to: Output::required(to.cast()), write: write::<T, C> }
    }

    /// Not wanted where it is null.
    fn optional<C: From<T>>(to: *mut C) -> Self {
        let output = RecordOutput::required(to);
        RecordOutput { to: Output::optional(output.to.to), ..output }
    }
}

/// # Safety
///
/// `out.metrics` is null or points to a struct of the size that it says.
pub(crate) unsafe fn logps(out: &dpo_logps) -> Result<LogpsTensors<Pointers>> {
    // SAFETY: the caller's promise.
    let metrics = unsafe { read_optional("metrics", out.metrics) }?;
    Ok(LogpsTensors {
        logps: Output::required(out.logps),
        scored: Output::optional(out.scored),
        token_logps: Output::optional(out.token_logps),
        logsumexp: Output::optional(out.logsumexp),
        logsumexp_residual: Output::optional(out.logsumexp_residual),
        token_weights: Output::optional(out.token_weights),
        status: RecordOutput::required(out.status),
        metrics: metrics.map(token_metrics),
    })
}

fn token_metrics(out: &dpo_token_metrics) -> TokenMetricTensors<Pointers> {
    TokenMetricTensors {
        entropy: Output::optional(out.entropy),
        correct: Output::optional(out.correct),
        mean_logit: Output::optional(out.mean_logit),
        sum_p2: Output::optional(out.sum_p2),
        sequence_log_weights: Output::optional(out.sequence_log_weights),
        mean: RecordOutput::optional(out.mean),
    }
}

pub(crate) fn pair_outputs(out: &dpo_pair_outputs) -> PairOutputTensors<Pointers> {
    PairOutputTensors {
        pair_losses: Output::required(out.pair_losses),
        chosen_rewards: Output::required(out.chosen_rewards),
        rejected_rewards: Output::required(out.rejected_rewards),
        margins: Output::required(out.margins),
        coef: Output::required(out.coef),
        metrics: RecordOutput::required(out.metrics),
    }
}

/// The caller's buffers in host memory: arrays are written where they are, records when the call has succeeded.
pub(crate) struct HostBuffers<'a>(PhantomData<&'a mut f32>);

impl<'a> Memory for HostBuffers<'a> {
    type Number = f32;
    type Floats = Option<&'a mut [f32]>;
    type Counts = Option<&'a mut [u32]>;
    type Record<T: Record> = Option<HostRecord<T>>;
}

/// A record of the crate's, and where its counterpart goes.
pub(crate) struct HostRecord<T> {
    record: T,
    to: NonNull<u32>,
    write: unsafe fn(NonNull<u32>, T),
}

impl HostMemory for HostBuffers<'_> {
    fn floats(field: Field, len: usize, to: &mut Self::Floats) -> Result<Option<&mut [f32]>> {
        <SlicesMut<'_, f32> as HostMemory>::floats(field, len, to)
    }

    fn counts(field: Field, len: usize, to: &mut Self::Counts) -> Result<Option<&mut [u32]>> {
        <SlicesMut<'_, f32> as HostMemory>::counts(field, len, to)
    }

    fn record<T: Record>(to: &mut Self::Record<T>) -> Option<&mut T> {
        to.as_mut().map(|to| &mut to.record)
    }
}

/// Makes slices of pointers to host memory.
pub(crate) struct ToHost(Extent);

impl ToHost {
    /// # Safety
    ///
    /// Pointers that are converted are null or point to what the header says for a batch of this extent, which nothing
    /// else uses while the results of the conversion do.
    pub unsafe fn new(extent: Extent) -> Self {
        ToHost(extent)
    }

    fn array<'a, T>(&self, field: Field, to: &Output<T>) -> Result<Option<&'a mut [T]>> {
        let to = to.judged(field.name)?;
        // SAFETY: the promise made to `new`.
        to.map(|to| unsafe { slice_mut(field.name, to.as_ptr(), field.shape.len(&self.0)) }).transpose()
    }
}

impl<'a> Conversion<Pointers, HostBuffers<'a>> for ToHost {
    type Error = Error;

    fn floats(&mut self, field: Field, from: &Output<f32>) -> Result<Option<&'a mut [f32]>> {
        self.array(field, from)
    }

    fn counts(&mut self, field: Field, from: &Output<u32>) -> Result<Option<&'a mut [u32]>> {
        self.array(field, from)
    }

    fn record<T: Record>(
        &mut self,
        name: &'static str,
        from: &RecordOutput<T>,
    ) -> Result<Option<HostRecord<T>>> {
        let to = from.to.judged(name)?;
        Ok(to.map(|to| HostRecord { record: T::default(), to, write: from.write }))
    }
}

/// Writes the records that a call has left in [`HostBuffers`] to where they go.
pub(crate) struct WriteRecords;

impl<'a> Conversion<HostBuffers<'a>, Unallocated<f32>> for WriteRecords {
    type Error = Infallible;

    fn floats(&mut self, _: Field, _: &Option<&'a mut [f32]>) -> std::result::Result<(), Infallible> {
        Ok(())
    }

    fn counts(&mut self, _: Field, _: &Option<&'a mut [u32]>) -> std::result::Result<(), Infallible> {
        Ok(())
    }

    fn record<T: Record>(
        &mut self,
        _: &'static str,
        from: &Option<HostRecord<T>>,
    ) -> std::result::Result<(), Infallible> {
        if let Some(HostRecord { record, to, write }) = from {
            // SAFETY: the promise made to `ToHost::new`; `write` knows the type of what `to` points to.
            unsafe { write(*to, *record) };
        }
        Ok(())
    }
}

/// Takes pointers for addresses in device memory.
#[cfg(feature = "cuda")]
pub(crate) struct ToDevice;

#[cfg(feature = "cuda")]
mod to_device {
    use dpo_kernels::cuda::plan::{Addresses, DeviceAddress};

    use super::*;

    fn address<T>(argument: &'static str, to: &Output<T>) -> Result<Option<DeviceAddress>> {
        Ok(to.judged(argument)?.map(|to| to.addr().get() as DeviceAddress))
    }

    impl Conversion<Pointers, Addresses> for ToDevice {
        type Error = Error;

        fn floats(&mut self, field: Field, from: &Output<f32>) -> Result<Option<DeviceAddress>> {
            address(field.name, from)
        }

        fn counts(&mut self, field: Field, from: &Output<u32>) -> Result<Option<DeviceAddress>> {
            address(field.name, from)
        }

        fn record<T: Record>(
            &mut self,
            name: &'static str,
            from: &RecordOutput<T>,
        ) -> Result<Option<DeviceAddress>> {
            address(name, &from.to)
        }
    }
}
