//! The structs and buffers of a call behind the language model's head.

use std::ptr;

use dpo_kernels::{Logit, WantedGradients};

use super::call::{Layout, Results, enumerator, logsumexp, sized};
use super::description::HeadWorkspace;
use crate::cpu::with_logit;
use crate::header::*;

/// The structs of the header that calls behind a head are handed, beside those of other calls.
#[derive(Clone)]
pub struct HeadStructs {
    pub head: dpo_lm_head,
    pub inputs: dpo_lm_head_backward_inputs,
    pub gradients: Option<dpo_lm_head_gradients>,
    pub workspace: dpo_cuda_lm_head_workspace,
    /// The head without the budget, which a GPU has in the workspace; null until it is handed over.
    pub on_gpu: *const dpo_lm_head,
    /// Whether the call is handed a loss.
    pub has_loss: bool,
}

impl Layout<'_> {
    /// None where there are logits.
    pub fn head(&mut self, results: &mut Results) -> Option<HeadStructs> {
        let from = self.description.head.as_ref()?;
        let mut head = sized!(dpo_lm_head);
        head.dtype = enumerator(self.description.dtype);
        (head.label_type, head.labels) = self.labels();
        head.hidden_size = from.hidden_size;
        with_logit!(self.description.dtype, T => {
            let typed = |values: &[f32]| values.iter().map(|&value| T::from_f32(value)).collect::<Vec<T>>();
            head.hidden = self.input("hidden", &typed(&from.hidden)).cast();
            head.weight = self.input("weight", &typed(&from.weight)).cast();
            head.bias = self.optional("bias", from.bias.as_deref().map(typed).as_deref()).cast();
        });
        if let Some(bytes) = from.budget_bytes {
            (head.given, head.budget_bytes) = (DPO_LM_HEAD_BUDGET_BYTES, bytes);
        }
        Some(HeadStructs {
            head,
            inputs: self.backward_inputs(),
            gradients: from.gradients.map(|wanted| self.gradients(wanted, results)),
            workspace: head_workspace(&from.workspace),
            on_gpu: ptr::null(),
            has_loss: from.has_loss,
        })
    }

    fn backward_inputs(&mut self) -> dpo_lm_head_backward_inputs {
        let from = &self.description.gradient;
        let mut to = sized!(dpo_lm_head_backward_inputs);
        let (values, residual) = logsumexp(self.description);
        to.logsumexp = self.input("logsumexp", &values);
        to.logsumexp_residual = self.optional("logsumexp_residual", from.residual.then_some(&residual[..]));
        to.coef = self.optional("coef", from.coef.as_deref());
        to.token_coef = self.optional("token_coef", from.token_coef.as_deref());
        let [entropy_coef, entropy] = [0, 1].map(|i| from.entropy.as_ref().map(|both| &both[i][..]));
        to.entropy_coef = self.optional("entropy_coef", entropy_coef);
        to.entropy = self.optional("entropy", entropy);
        if let Some(threshold) = from.threshold {
            (to.threshold, to.given) = (threshold, DPO_GRADIENT_THRESHOLD);
        }
        to
    }

    fn gradients(&mut self, wanted: WantedGradients, results: &mut Results) -> dpo_lm_head_gradients {
        let description = self.description;
        let (from, head) = (&description.gradient, description.head.as_ref().expect("there is one"));
        let mut to = sized!(dpo_lm_head_gradients);
        to.upstream = self.optional("upstream", from.upstream.as_ref().map(std::slice::from_ref));
        if let Some(scale) = from.upstream_scale {
            (to.upstream_scale, to.given) = (scale, DPO_GRADIENT_UPSTREAM_SCALE);
        }
        if wanted.hidden {
            let result = &mut results.gradient_of_hidden;
            to.hidden = with_logit!(description.dtype, T => {
                self.output::<T>("gradients.hidden", head.hidden.len(), result).cast()
            });
        }
        let mut start = |name, len, is_wanted: bool| {
            let buffer = is_wanted.then(|| self.memory.in_and_out(name, &vec![head.start; len], self.random));
            (buffer, buffer.map_or(ptr::null_mut(), |buffer| self.memory.address(buffer)))
        };
        (results.gradient_of_weight, to.weight) = start("gradients.weight", head.weight.len(), wanted.weight);
        (results.gradient_of_bias, to.bias) = start("gradients.bias", description.batch.vocab, wanted.bias);
        if let Some(row) = from.nonfinite_row {
            let buffer = self.memory.in_and_out("nonfinite_row", &[row], self.random);
            results.nonfinite_row = Some(buffer);
            to.nonfinite_row = self.memory.address(buffer);
        }
        to
    }
}

fn head_workspace(from: &HeadWorkspace) -> dpo_cuda_lm_head_workspace {
    let mut to = sized!(dpo_cuda_lm_head_workspace);
    let HeadWorkspace { sequences, rows, pairs, vocab, hidden_size, dtype, .. } = *from;
    (to.sequences, to.rows, to.pairs, to.vocab) = (sequences, rows, pairs, vocab);
    (to.hidden_size, to.dtype) = (hidden_size, enumerator(dtype));
    if let Some(logits_dtype) = from.logits_dtype {
        to.given |= DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE;
        to.logits_dtype = enumerator(logits_dtype);
    }
    if let Some(bytes) = from.budget_bytes {
        to.given |= DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES;
        to.budget_bytes = bytes;
    }
    if let Some(bytes) = from.product_bytes {
        to.given |= DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES;
        to.product_bytes = bytes;
    }
    // It is not followed: what plans are made for does not run here.
    to.memory = ptr::without_provenance_mut(1 << 20);
    to
}
