//! A right call of any function of the header, of which one thing can be made wrong.

use std::ffi::{CStr, c_void};
use std::mem;

#[cfg(feature = "cuda")]
use dpo_kernels::cuda::plan::Device;

use crate::cpu::{dpo_cpu_backward, dpo_cpu_factored, dpo_cpu_forward, dpo_cpu_logps, dpo_cpu_pair_loss};
#[cfg(feature = "cuda")]
use crate::cuda::plans;
#[cfg(feature = "cuda")]
use crate::failure::guard;
use crate::header::*;

pub(super) const ROWS: usize = 4;
const SEQUENCES: usize = 2;
pub(super) const VOCAB: usize = 3;

/// Structs of a batch of two padded sequences of two rows, and all that they point to.
pub(super) struct Call {
    pub batch: dpo_batch,
    pub inputs: dpo_inputs,
    pub loss: dpo_loss,
    pub terms: Vec<dpo_loss_term>,
    pub pair_inputs: dpo_pair_inputs,
    pub out: dpo_logps,
    pub token_metrics: dpo_token_metrics,
    pub pair_outputs: dpo_pair_outputs,
    pub gradient: dpo_gradient,
    pub logps: *const f32,
    pub ref_logps: *const f32,
    pub scored: *const u32,
    pub factored: *mut c_void,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub workspace: *mut c_void,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub status: *mut dpo_status,
    pub memory: Memory,
}

/// What the structs point to: zeros at first, a place of its own for each pointer.
pub(super) struct Memory {
    pub words: Vec<u64>,
    pub places: usize,
}

impl Memory {
    /// Words of a place: more than any buffer of the batch has.
    pub const PLACE: usize = 16;

    fn new() -> Self {
        Memory { words: vec![0; 64 * Memory::PLACE], places: 0 }
    }

    /// The next place.
    pub fn place<T>(&mut self) -> *mut T {
        self.places += 1;
        self.words[(self.places - 1) * Memory::PLACE..].as_mut_ptr().cast()
    }
}

impl Call {
    pub fn new() -> Box<Self> {
        let mut memory = Memory::new();
        // SAFETY: all fields are numbers and pointers, for which zeros are a value.
        let mut call = unsafe {
            Box::new(Call {
                batch: mem::zeroed(),
                inputs: mem::zeroed(),
                loss: mem::zeroed(),
                terms: vec![],
                pair_inputs: mem::zeroed(),
                out: mem::zeroed(),
                token_metrics: mem::zeroed(),
                pair_outputs: mem::zeroed(),
                gradient: mem::zeroed(),
                logps: memory.place(),
                ref_logps: memory.place(),
                scored: memory.place(),
                factored: memory.place(),
                workspace: memory.place(),
                status: memory.place(),
                memory,
            })
        };
        macro_rules! sizes {
            ($($field:ident)*) => { $(call.$field.struct_size = size_of_val(&call.$field);)* };
        }
        sizes!(batch inputs loss pair_inputs out token_metrics pair_outputs gradient);
        macro_rules! point {
            ($($set:ident: $($field:ident)*;)*) => { $($(call.$set.$field = call.memory.place();)*)* };
        }
        point! {
            inputs: logits labels;
            out: logps status;
            pair_outputs: pair_losses chosen_rewards rejected_rewards margins coef metrics;
            gradient: logsumexp coef dlogits;
        }
        call.batch.vocab = VOCAB;
        call.batch.sequences = SEQUENCES;
        call.batch.sequence_len = ROWS / SEQUENCES;
        call.batch.label_alignment = DPO_ALIGNED;
        call.loss.beta = 0.1;
        call
    }

    /// A term of the loss, by name.
    pub fn term(&mut self, name: &'static CStr) -> &mut dpo_loss_term {
        self.terms.push(dpo_loss_term { name: name.as_ptr(), weight: 0.0, parameters: [0.0; 2], given: 0 });
        self.terms.last_mut().expect("just pushed")
    }

    /// What else `pair_loss` reads.
    pub fn with_inputs(&mut self) -> &mut dpo_pair_inputs {
        self.loss.inputs = &self.pair_inputs;
        &mut self.pair_inputs
    }

    /// Where token metrics go.
    pub fn with_metrics(&mut self) -> &mut dpo_token_metrics {
        self.out.metrics = &self.token_metrics;
        &mut self.token_metrics
    }

    /// Pairs by index.
    pub fn indexed(&mut self) -> &mut dpo_batch {
        self.batch.pairs = DPO_PAIRS_INDEXED;
        self.batch.pair_count = 1;
        self.batch.chosen = self.memory.place();
        self.batch.rejected = self.memory.place();
        &mut self.batch
    }

    /// Sequences by their ends, which are all 0 where the last should be [`ROWS`].
    pub fn packed(&mut self) -> &mut dpo_batch {
        self.batch.sequence_len = 0;
        self.batch.rows = ROWS;
        self.batch.cu_seqlens = self.memory.place();
        &mut self.batch
    }

    /// Calls the function of a stage; on a GPU, as far as the plan.
    pub fn run(&mut self, half: Half, stage: Stage) -> dpo_result {
        if !self.terms.is_empty() {
            self.loss.terms = self.terms.as_ptr();
            self.loss.term_count = self.terms.len();
        }
        match half {
            Half::Cpu => self.run_on_cpu(stage),
            #[cfg(feature = "cuda")]
            Half::Cuda => self.plan_for_gpu(stage),
        }
    }

    fn run_on_cpu(&self, stage: Stage) -> dpo_result {
        let Call { batch, inputs, loss, out, pair_outputs, gradient, .. } = self;
        let Call { logps, ref_logps, scored, factored, status, .. } = *self;
        // SAFETY: the structs are as the header asks, but for what is to be refused.
        unsafe {
            match stage {
                Stage::Logps => dpo_cpu_logps(batch, inputs, out),
                Stage::PairLoss => {
                    dpo_cpu_pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs, status)
                }
                Stage::Forward => dpo_cpu_forward(batch, inputs, ref_logps, loss, out, pair_outputs),
                Stage::Factored => {
                    dpo_cpu_factored(batch, inputs, ref_logps, loss, out, pair_outputs, factored)
                }
                Stage::Backward => dpo_cpu_backward(batch, inputs, gradient),
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn plan_for_gpu(&self, stage: Stage) -> dpo_result {
        let Call { batch, inputs, loss, out, pair_outputs, gradient, .. } = self;
        let Call { logps, ref_logps, scored, factored, workspace, status, .. } = *self;
        let device = &Device {
            capability: (9, 0),
            multiprocessors: 132,
            shared_bytes_per_block: 232_448,
            l2_bytes: 50 << 20,
            cluster_blocks: 8,
        };
        // SAFETY: the structs are as the header asks, but for what is to be refused.
        let plan = || unsafe {
            match stage {
                Stage::Logps => plans::logps(device, batch, inputs, out, workspace),
                Stage::PairLoss => {
                    plans::pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs, status)
                }
                Stage::Forward => {
                    plans::forward(device, batch, inputs, ref_logps, loss, out, pair_outputs, workspace)
                }
                Stage::Factored => plans::factored(
                    device,
                    batch,
                    inputs,
                    ref_logps,
                    loss,
                    out,
                    pair_outputs,
                    factored,
                    workspace,
                ),
                Stage::Backward => plans::backward(device, batch, inputs, gradient),
            }
        };
        guard(|| Ok(plan().map(drop)?))
    }
}

/// A function of the header, on either side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Logps,
    PairLoss,
    Forward,
    Factored,
    Backward,
}

/// A half of the header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Half {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
}
