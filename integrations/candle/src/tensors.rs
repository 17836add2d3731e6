//! Results in candle's tensors.

use candle_core::{Result, Tensor};
use dpo_kernels::memory::{Memory, Record};

#[cfg(feature = "cuda")]
use dpo_kernels::cuda::params::DpoBatchMetrics;

/// Memory of candle's: f32 and u32 tensors on the device of the logits. What was not asked for is `None`.
#[derive(Debug)]
pub enum Tensors {}

impl Memory for Tensors {
    type Number = f32;
    type Floats = Option<Tensor>;
    type Counts = Option<Tensor>;
    type Record<T: Record> = Option<Pending<T>>;
}

/// What a pass finds of its batch as a whole, such as a mean. On a GPU the pass may still be under way.
#[derive(Debug, Clone)]
pub struct Pending<T>(Place<T>);

#[derive(Debug, Clone)]
enum Place<T> {
    Host(T),
    /// The words of a [`DpoBatchMetrics`], of which the record is one.
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

impl<T: Record> Pending<T> {
    pub(crate) fn host(record: T) -> Self {
        Pending(Place::Host(record))
    }

    /// Of `records`, [`RECORD_WORDS`] of u32 into which a pass writes a [`DpoBatchMetrics`].
    #[cfg(feature = "cuda")]
    pub(crate) fn device(records: &Tensor) -> Self {
        Pending(Place::Device(records.clone()))
    }

    /// The tensor of [`device`](Self::device), for a record that is there.
    #[cfg(feature = "cuda")]
    pub(crate) fn records(&self) -> Option<&Tensor> {
        match &self.0 {
            Place::Host(_) => None,
            Place::Device(records) => Some(records),
        }
    }

    /// The value. On a GPU this waits for the pass and copies a few bytes.
    ///
    /// # Errors
    ///
    /// On a GPU, the failure of anything queued before.
    pub fn read(&self) -> Result<T> {
        match &self.0 {
            Place::Host(record) => Ok(*record),
            #[cfg(feature = "cuda")]
            Place::Device(records) => Ok(T::of_batch(&batch_metrics(&records.to_vec1()?)?)),
        }
    }
}

/// Elements of a u32 tensor that holds a [`DpoBatchMetrics`].
#[cfg(feature = "cuda")]
pub(crate) const RECORD_WORDS: usize = size_of::<DpoBatchMetrics>() / size_of::<u32>();

#[cfg(feature = "cuda")]
fn batch_metrics(words: &[u32]) -> Result<DpoBatchMetrics> {
    let words: [u32; RECORD_WORDS] = words.try_into().map_err(|_| {
        candle_core::Error::msg(format!("expected {RECORD_WORDS} words, found {}", words.len()))
    })?;
    // SAFETY: the struct is u32 and f32 alone, without padding, of which any bits are a value.
    Ok(unsafe { std::mem::transmute::<[u32; RECORD_WORDS], DpoBatchMetrics>(words) })
}
