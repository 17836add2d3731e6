//! Every pass over logits of one shape.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use dpo_kernels::cuda::{DpoPass, Kernels, PairSlices};
use dpo_kernels::{IGNORE_INDEX, Logit, MetricsLevel, PairLoss};

use crate::Result;
use crate::clock::Clock;
use crate::common::{Shape, logits};
use crate::table::Measured;

pub struct Gpu {
    pub kernels: Arc<Kernels>,
    pub stream: Arc<CudaStream>,
    pub clock: Clock,
}

/// Buffers that are used in turn have this many times as many bytes as L2, so that none is found there again.
const L2_SIZES: u64 = 8;

/// Calls of one captured graph at the least, among which the graph's own start does not count.
const CALLS: usize = 4;

/// Copies of the logits that are used in turn.
fn copies<T: Logit>(gpu: &Gpu, shape: Shape) -> usize {
    let bytes = L2_SIZES * u64::from(gpu.kernels.device().l2_bytes);
    bytes.div_ceil(shape.bytes::<T>()) as usize
}

pub fn measure<T>(gpu: &Gpu, shape: Shape) -> Result<Vec<Measured>>
where
    T: Logit + DeviceRepr + ValidAsZeroBits,
{
    let stream = &gpu.stream;
    let (copies, len) = (copies::<T>(gpu, shape), shape.rows * shape.vocab);
    let at = |turn: usize| {
        let start = turn % copies * len;
        start..start + len
    };
    let mut from = filled::<T>(stream, shape, copies)?;
    let mut to = stream.alloc_zeros::<T>(copies * len)?;
    let (all, half) = (stream.clone_htod(&labels(shape, false))?, stream.clone_htod(&labels(shape, true))?);
    let pass = || DpoPass::new(&gpu.kernels, stream, &shape.batch());
    let (mut plain, mut entropy, mut metrics) = (
        pass()?,
        pass()?.with_token_metrics(MetricsLevel::Entropy)?,
        pass()?.with_token_metrics(MetricsLevel::All)?,
    );
    let (inputs, loss) = (PairSlices::NONE, PairLoss::sigmoid(0.1)?.without_reference());

    let mut timed = Timed {
        gpu,
        turns: copies.max(CALLS),
        name: shape.name::<T>(),
        bytes: shape.bytes::<T>(),
        rows: vec![],
    };
    timed.pass("copy", 2.0, |turn| {
        Ok(stream.memcpy_dtod(&from.slice(at(turn)), &mut to.slice_mut(at(turn)))?)
    })?;
    timed.pass("forward", 1.0, |turn| Ok(plain.forward(&from.slice(at(turn)), &all, &inputs, &loss)?))?;
    timed.pass("logps + entropy", 1.0, |turn| Ok(entropy.logps(&from.slice(at(turn)), &all)?))?;
    timed.pass("logps + all metrics", 1.0, |turn| Ok(metrics.logps(&from.slice(at(turn)), &all)?))?;
    timed.pass("backward", 2.0, |turn| {
        Ok(plain.backward(&from.slice(at(turn)), &all, None, 1.0, &mut to.slice_mut(at(turn)))?)
    })?;
    timed.pass("factored", 2.0, |turn| {
        Ok(plain.factored(&from.slice(at(turn)), &all, &inputs, &loss, &mut to.slice_mut(at(turn)))?)
    })?;
    // Rows that are ignored are not read, and their gradient is written.
    timed.pass("forward, half ignored", 0.5, |turn| {
        Ok(plain.forward(&from.slice(at(turn)), &half, &inputs, &loss)?)
    })?;
    timed.pass("backward, half ignored", 1.5, |turn| {
        Ok(plain.backward(&from.slice(at(turn)), &half, None, 1.0, &mut to.slice_mut(at(turn)))?)
    })?;
    // Last, since they leave gradients in the logits' place; a gradient is a valid input again. The coefficients and the
    // logsumexp, which are the same for all copies, are those of all rows again.
    plain.forward(&from.slice(at(0)), &all, &inputs, &loss)?;
    timed.pass("backward in place", 2.0, |turn| {
        Ok(plain.backward_in_place(&mut from.slice_mut(at(turn)), &all, None, 1.0)?)
    })?;
    timed.pass("factored in place", 2.0, |turn| {
        Ok(plain.factored_in_place(&mut from.slice_mut(at(turn)), &all, &inputs, &loss)?)
    })?;
    plain.read_status()?.check()?;
    Ok(timed.rows)
}

/// The measurements of one shape, of which the copy is the first.
struct Timed<'a> {
    gpu: &'a Gpu,
    turns: usize,
    name: String,
    bytes: u64,
    rows: Vec<Measured>,
}

impl Timed<'_> {
    /// Times a pass that must move so many times the bytes of the logits.
    fn pass(&mut self, pass: &'static str, moved: f64, call: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let micros = self.gpu.clock.microseconds(self.turns, call)?;
        let bytes = moved * self.bytes as f64;
        let rate = bytes / micros;
        let share = self.rows.first().map_or(1.0, |copy| rate / copy.rate());
        self.rows.push(Measured { shape: self.name.clone(), pass, micros, bytes, share });
        Ok(())
    }
}

/// Device memory with 64 rows of logits over and over.
fn filled<T>(stream: &Arc<CudaStream>, shape: Shape, copies: usize) -> Result<CudaSlice<T>>
where
    T: Logit + DeviceRepr + ValidAsZeroBits,
{
    let tile = stream.clone_htod(&logits::<T>(64 * shape.vocab))?;
    let mut all = stream.alloc_zeros::<T>(copies * shape.rows * shape.vocab)?;
    for start in (0..all.len()).step_by(tile.len()) {
        stream.memcpy_dtod(&tile, &mut all.slice_mut(start..start + tile.len()))?;
    }
    Ok(all)
}

/// One label a row; with `prompts`, the first half of each sequence is not scored.
fn labels(shape: Shape, prompts: bool) -> Vec<i64> {
    let batch = shape.batch();
    let length = shape.rows / batch.sequences.count();
    let label = |row: usize| match prompts && row % length < length / 2 {
        true => IGNORE_INDEX,
        false => (row * 7919 % shape.vocab) as i64,
    };
    (0..shape.rows).map(label).collect()
}
