//! The CPU half of the header.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use dpo_kernels::batch::{Logps, MeanTokenMetrics, PairMetrics, PairOutputs, TokenMetrics};
use dpo_kernels::cpu::{self, Forward, Logsumexp};
use dpo_kernels::{Coef, DType, HostBatch};
use half::{bf16, f16};

use crate::arguments::{
    batch, dtype, host_inputs, host_labels, in_host_memory, loss, optional_slice, paired_sequences, pointer,
    read, slice, slice_mut,
};
use crate::failure::{Result, guard};
use crate::header::*;

thread_local! {
    /// Where results are made before they are copied to the caller's buffers, which are small beside the logits. It is
    /// taken while in use: a thread that waits in one pass may be given another to run.
    static SCRATCH: Cell<Forward> = Cell::default();
}

/// Evaluates an expression with `$T` as the Rust type of a [`DType`].
macro_rules! with_logit {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
        }
    };
}

/// A buffer of the caller's that has been judged, and will be written when there is something to write.
struct Output<T> {
    /// None where the caller does not want it.
    to: Option<NonNull<T>>,
    len: usize,
}

impl<T: Copy> Output<T> {
    fn new(argument: &'static str, to: *mut T, len: usize) -> Result<Self> {
        Ok(Output { to: Some(pointer(argument, to)?), len })
    }

    fn optional(argument: &'static str, to: *mut T, len: usize) -> Result<Self> {
        if to.is_null() { Ok(Output { to: None, len }) } else { Output::new(argument, to, len) }
    }

    /// # Safety
    ///
    /// The buffer is as long as it was said to be.
    unsafe fn write(&self, values: &[T]) {
        assert_eq!(values.len(), self.len);
        if let Some(to) = self.to {
            // SAFETY: not null, aligned, of this length, and apart from a buffer of this library's own.
            unsafe { ptr::copy_nonoverlapping(values.as_ptr(), to.as_ptr(), self.len) };
        }
    }
}

fn address(pointer: *const c_void) -> u64 {
    pointer.addr() as u64
}

/// Where `logps` writes.
struct LogpsOutputs {
    logps: Output<f32>,
    scored: Output<u32>,
    token_logps: Output<f32>,
    logsumexp: Output<f32>,
    logsumexp_residual: Output<f32>,
    token_weights: Output<f32>,
    metrics: Option<TokenOutputs>,
    status: Output<dpo_status>,
}

/// Where token metrics go, if any of them is wanted.
struct TokenOutputs {
    entropy: Output<f32>,
    correct: Output<f32>,
    mean_logit: Output<f32>,
    sum_p2: Output<f32>,
    sequence_log_weights: Output<f32>,
    means: Output<dpo_mean_token_metrics>,
}

impl TokenOutputs {
    fn new(out: &dpo_logps, rows: usize, sequences: usize) -> Result<Option<Self>> {
        let wanted = [out.entropy, out.correct, out.mean_logit, out.sum_p2, out.sequence_log_weights];
        if wanted.iter().all(|to| to.is_null()) && out.mean_token_metrics.is_null() {
            return Ok(None);
        }
        Ok(Some(TokenOutputs {
            entropy: Output::optional("entropy", out.entropy, rows)?,
            correct: Output::optional("correct", out.correct, rows)?,
            mean_logit: Output::optional("mean_logit", out.mean_logit, rows)?,
            sum_p2: Output::optional("sum_p2", out.sum_p2, rows)?,
            sequence_log_weights: Output::optional(
                "sequence_log_weights",
                out.sequence_log_weights,
                sequences,
            )?,
            means: Output::optional("mean_token_metrics", out.mean_token_metrics, 1)?,
        }))
    }

    /// # Safety
    ///
    /// The buffers are of the sizes that the header asks for.
    unsafe fn write(&self, results: &TokenMetrics<f32>) {
        let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = results.means;
        let means = dpo_mean_token_metrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 };
        // SAFETY: the caller's promise.
        unsafe {
            self.entropy.write(&results.entropy);
            self.correct.write(&results.correct);
            self.mean_logit.write(&results.mean_logit);
            self.sum_p2.write(&results.sum_p2);
            self.sequence_log_weights.write(&results.sequence_log_weights);
            self.means.write(&[means]);
        }
    }
}

impl LogpsOutputs {
    fn new(out: &dpo_logps, batch: &HostBatch<'_>) -> Result<Self> {
        let (rows, sequences) = (batch.rows(), batch.sequences.count());
        Ok(LogpsOutputs {
            logps: Output::new("logps", out.logps, sequences)?,
            scored: Output::optional("scored", out.scored, sequences)?,
            token_logps: Output::optional("token_logps", out.token_logps, rows)?,
            logsumexp: Output::optional("logsumexp", out.logsumexp, rows)?,
            logsumexp_residual: Output::optional("logsumexp_residual", out.logsumexp_residual, rows)?,
            token_weights: Output::optional("token_weights", out.token_weights, rows)?,
            metrics: TokenOutputs::new(out, rows, sequences)?,
            status: Output::new("status", out.status, 1)?,
        })
    }

    /// Asks a pass for what is wanted.
    fn request(&self, results: &mut Logps<f32>) {
        results.metrics = self.metrics.as_ref().map(|_| results.metrics.take().unwrap_or_default());
    }

    /// # Safety
    ///
    /// The buffers are of the sizes that the header asks for.
    unsafe fn write(&self, results: &Logps<f32>) {
        // SAFETY: the caller's promise.
        unsafe {
            self.logps.write(&results.logps);
            self.scored.write(&results.scored);
            self.token_logps.write(&results.token_logps);
            self.logsumexp.write(&results.logsumexp);
            self.logsumexp_residual.write(&results.logsumexp_residual);
            self.token_weights.write(&results.token_weights);
            if let (Some(to), Some(metrics)) = (&self.metrics, &results.metrics) {
                to.write(metrics);
            }
            self.status.write(&[results.status.into()]);
        }
    }
}

/// Where `pair_loss` writes.
struct PairOutputBuffers {
    pair_losses: Output<f32>,
    chosen_rewards: Output<f32>,
    rejected_rewards: Output<f32>,
    margins: Output<f32>,
    coef: Output<f32>,
    metrics: Output<dpo_pair_metrics>,
}

impl PairOutputBuffers {
    fn new(out: &dpo_pair_outputs, batch: &HostBatch<'_>) -> Result<Self> {
        let pairs = batch.pair_count();
        Ok(PairOutputBuffers {
            pair_losses: Output::new("pair_losses", out.pair_losses, pairs)?,
            chosen_rewards: Output::new("chosen_rewards", out.chosen_rewards, pairs)?,
            rejected_rewards: Output::new("rejected_rewards", out.rejected_rewards, pairs)?,
            margins: Output::new("margins", out.margins, pairs)?,
            coef: Output::new("coef", out.coef, batch.sequences.count())?,
            metrics: Output::new("metrics", out.metrics, 1)?,
        })
    }

    /// # Safety
    ///
    /// The buffers are of the sizes that the header asks for.
    unsafe fn write(&self, results: &PairOutputs<f32>) {
        let PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy } = results.metrics;
        // SAFETY: the caller's promise.
        unsafe {
            self.pair_losses.write(&results.pair_losses);
            self.chosen_rewards.write(&results.chosen_rewards);
            self.rejected_rewards.write(&results.rejected_rewards);
            self.margins.write(&results.margins);
            self.coef.write(&results.coef);
            self.metrics.write(&[dpo_pair_metrics {
                loss,
                chosen_reward,
                rejected_reward,
                margin,
                accuracy,
            }]);
        }
    }
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_logps(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    out: *const dpo_logps,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(self::batch(read("batch", batch)?)?)?;
        let inputs = read("inputs", inputs)?;
        let out = LogpsOutputs::new(read("out", out)?, &batch)?;
        let labels = host_labels(inputs, batch.rows())?;

        let mut scratch = SCRATCH.take();
        with_logit!(dtype(inputs)?, T => {
            let logits = slice::<T>("logits", inputs.logits.cast(), batch.logits_len())?;
            out.request(&mut scratch.logps);
            cpu::logps(&batch, logits, labels, &mut scratch.logps)?;
        });
        out.write(&scratch.logps);
        SCRATCH.set(scratch);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_pair_loss(
    batch: *const dpo_batch,
    logps: *const f32,
    ref_logps: *const f32,
    lengths: *const u32,
    loss: *const dpo_loss,
    out: *const dpo_pair_outputs,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(paired_sequences(read("batch", batch)?)?)?;
        let sequences = batch.sequences.count();
        let logps = slice("logps", logps, sequences)?;
        let scored = optional_slice("lengths", lengths, sequences)?;
        let loss = read("loss", loss)?;
        let inputs = host_inputs(loss, ref_logps, sequences, batch.pair_count())?;
        let loss = self::loss(loss)?;
        let out = PairOutputBuffers::new(read("out", out)?, &batch)?;

        let mut scratch = SCRATCH.take();
        cpu::pair_loss_with(&batch, logps, scored, &inputs, &loss, &mut scratch.pairs)?;
        out.write(&scratch.pairs);
        SCRATCH.set(scratch);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_forward(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pairs: *const dpo_pair_outputs,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(self::batch(read("batch", batch)?)?)?;
        let inputs = read("inputs", inputs)?;
        let loss = read("loss", loss)?;
        let pair_inputs = host_inputs(loss, ref_logps, batch.sequences.count(), batch.pair_count())?;
        let loss = self::loss(loss)?;
        let out = LogpsOutputs::new(read("out", out)?, &batch)?;
        let pairs = PairOutputBuffers::new(read("pairs", pairs)?, &batch)?;
        let labels = host_labels(inputs, batch.rows())?;

        let mut scratch = SCRATCH.take();
        with_logit!(dtype(inputs)?, T => {
            let logits = slice::<T>("logits", inputs.logits.cast(), batch.logits_len())?;
            out.request(&mut scratch.logps);
            cpu::forward_with(&batch, logits, labels, &pair_inputs, &loss, &mut scratch)?;
        });
        out.write(&scratch.logps);
        pairs.write(&scratch.pairs);
        SCRATCH.set(scratch);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_factored(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pairs: *const dpo_pair_outputs,
    gradient: *mut c_void,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(self::batch(read("batch", batch)?)?)?;
        let inputs = read("inputs", inputs)?;
        let loss = read("loss", loss)?;
        let pair_inputs = host_inputs(loss, ref_logps, batch.sequences.count(), batch.pair_count())?;
        let loss = self::loss(loss)?;
        let out = LogpsOutputs::new(read("out", out)?, &batch)?;
        let pairs = PairOutputBuffers::new(read("pairs", pairs)?, &batch)?;
        let labels = host_labels(inputs, batch.rows())?;

        let dtype = dtype(inputs)?;
        batch.check_gradient("gradient", dtype, address(inputs.logits), address(gradient))?;
        let mut scratch = SCRATCH.take();
        out.request(&mut scratch.logps);
        with_logit!(dtype, T => {
            let len = batch.logits_len();
            let logits = pointer::<T>("logits", inputs.logits.cast())?;
            let gradient = slice_mut::<T>("gradient", gradient.cast(), len)?;
            if ptr::eq(logits.as_ptr(), gradient.as_ptr()) {
                cpu::factored_in_place(&batch, gradient, labels, &pair_inputs, &loss, &mut scratch)?;
            } else {
                let logits = slice("logits", logits.as_ptr(), len)?;
                cpu::factored(&batch, logits, labels, &pair_inputs, &loss, &mut scratch, gradient)?;
            }
        });
        out.write(&scratch.logps);
        pairs.write(&scratch.pairs);
        SCRATCH.set(scratch);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_backward(
    batch: *const dpo_batch,
    inputs: *const dpo_inputs,
    gradient: *const dpo_gradient,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch = in_host_memory(self::batch(read("batch", batch)?)?)?;
        let inputs = read("inputs", inputs)?;
        let gradient = read("gradient", gradient)?;
        let rows = batch.rows();
        let labels = host_labels(inputs, rows)?;
        let logsumexp = Logsumexp {
            values: slice("logsumexp", gradient.logsumexp, rows)?,
            residual: optional_slice("logsumexp_residual", gradient.logsumexp_residual, rows)?,
        };
        let coef = Coef {
            sequences: optional_slice("coef", gradient.coef, batch.sequences.count())?,
            tokens: optional_slice("token_coef", gradient.token_coef, rows)?,
            threshold: gradient.threshold,
        };
        let nonfinite_row = Output::optional("nonfinite_row", gradient.nonfinite_row, 1)?;
        let upstream = optional_slice("upstream", gradient.upstream, 1)?.map_or(1.0, |factor| factor[0]);
        let upstream = upstream * gradient.upstream_scale;

        let dtype = dtype(inputs)?;
        batch.check_gradient("dlogits", dtype, address(inputs.logits), address(gradient.dlogits))?;
        let status = with_logit!(dtype, T => {
            let len = batch.logits_len();
            let logits = pointer::<T>("logits", inputs.logits.cast())?;
            let dlogits = slice_mut::<T>("dlogits", gradient.dlogits.cast(), len)?;
            if ptr::eq(logits.as_ptr(), dlogits.as_ptr()) {
                cpu::backward_in_place(&batch, dlogits, labels, logsumexp, coef, upstream)?
            } else {
                let logits = slice("logits", logits.as_ptr(), len)?;
                cpu::backward(&batch, logits, labels, logsumexp, coef, upstream, dlogits)?
            }
        });
        if let (Some(row), Some(to)) = (status.nonfinite_row, nonfinite_row.to) {
            // Rows are counted in 31 bits.
            to.write(to.read().min(row as u32));
        }
        Ok(())
    })
}
