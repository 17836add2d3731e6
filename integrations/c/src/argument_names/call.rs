//! A right call of any function of the header, of which one thing can be made wrong.

use std::ffi::{CStr, c_void};
use std::{mem, ptr};

use crate::calls::{Arguments, Half, Stage};
use crate::header::*;

pub(super) const ROWS: usize = 4;
const SEQUENCES: usize = 2;
pub(super) const VOCAB: usize = 3;
const HIDDEN_SIZE: usize = 2;

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
    pub workspace: dpo_workspace,
    pub status: *mut dpo_status,
    pub head: dpo_lm_head,
    pub backward_inputs: dpo_lm_head_backward_inputs,
    pub gradients: dpo_lm_head_gradients,
    pub head_workspace: *mut dpo_cpu_lm_head_workspace,
    pub cuda_head_workspace: dpo_cuda_lm_head_workspace,
    pub plan: *mut dpo_lm_head_plan,
    /// Whether the plan is of a loss.
    pub has_loss: bool,
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
                workspace: mem::zeroed(),
                status: memory.place(),
                head: mem::zeroed(),
                backward_inputs: mem::zeroed(),
                gradients: mem::zeroed(),
                head_workspace: ptr::null_mut(),
                cuda_head_workspace: mem::zeroed(),
                plan: memory.place(),
                has_loss: true,
                memory,
            })
        };
        macro_rules! sizes {
            ($($field:ident)*) => { $(call.$field.struct_size = size_of_val(&call.$field);)* };
        }
        sizes!(batch inputs loss pair_inputs out token_metrics pair_outputs gradient workspace);
        sizes!(head backward_inputs gradients cuda_head_workspace);
        macro_rules! point {
            ($($set:ident: $($field:ident)*;)*) => { $($(call.$set.$field = call.memory.place();)*)* };
        }
        point! {
            inputs: logits labels;
            out: logps status;
            pair_outputs: pair_losses chosen_rewards rejected_rewards margins coef metrics;
            gradient: logsumexp coef dlogits;
            workspace: memory;
            head: hidden weight labels;
            backward_inputs: logsumexp coef;
            gradients: hidden weight bias;
        }
        call.head.hidden_size = HIDDEN_SIZE;
        call.batch.vocab = VOCAB;
        call.batch.sequences = SEQUENCES;
        call.batch.sequence_len = ROWS / SEQUENCES;
        call.batch.label_alignment = DPO_ALIGNED;
        call.loss.beta = 0.1;
        call.workspace.sequences = SEQUENCES;
        call.workspace.rows = ROWS;
        call.workspace.vocab = VOCAB;
        call.cuda_head_workspace.sequences = SEQUENCES;
        call.cuda_head_workspace.rows = ROWS;
        call.cuda_head_workspace.pairs = SEQUENCES / 2;
        call.cuda_head_workspace.vocab = VOCAB;
        call.cuda_head_workspace.hidden_size = HIDDEN_SIZE;
        // It is not followed: what plans are made for does not run here.
        call.cuda_head_workspace.memory = ptr::without_provenance_mut(1 << 20);
        call
    }

    /// A term of the loss, by name.
    pub fn term(&mut self, name: &'static CStr) -> &mut dpo_loss_term {
        self.terms.push(dpo_loss_term {
            name: name.as_ptr(),
            weight: 0.0,
            beta: 0.0,
            parameters: [0.0; 2],
            given: 0,
        });
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
        let arguments = Arguments {
            batch: &self.batch,
            inputs: &self.inputs,
            logps: self.logps,
            ref_logps: self.ref_logps,
            scored: self.scored,
            loss: if self.has_loss { &self.loss } else { ptr::null() },
            out: &self.out,
            pair_outputs: &self.pair_outputs,
            gradient: &self.gradient,
            factored: self.factored,
            workspace: &self.workspace,
            status: self.status,
            head: &self.head,
            backward_inputs: &self.backward_inputs,
            gradients: &self.gradients,
            head_workspace: self.head_workspace,
            cuda_head_workspace: &self.cuda_head_workspace,
            plan: self.plan,
        };
        // SAFETY: the structs are as the header asks, but for what is to be refused.
        unsafe { arguments.call(half, stage) }
    }
}
