//! The functions behind the language model's head.

use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
use dpo_kernels::{LmHead, LmHeadGradients, LmHeadPlan, Logit, WantedGradients};

use super::lm_head_workspace::with_workspace;
use super::{BackwardPointers, NonfiniteRow, host_loss, host_outputs, upstream, with_logit};
use crate::failure::{Result, guard};
use crate::header::*;
use crate::lm_head::{Given, Numbers, check_gradients_apart, plan as plan_of, wanted};
use crate::pointers::{optional_slice, pointer, read, read_optional, slice, slice_mut};
use crate::results::{self, HostBuffers, ToHost, WriteRecords};
use crate::{gradient, loss};

fn budget_bytes(numbers: &Numbers) -> usize {
    numbers.budget_bytes.unwrap_or(LmHeadWorkspace::DEFAULT_BUDGET_BYTES)
}

impl<'a> Given<'a> {
    /// Hidden states, weight and bias.
    ///
    /// # Safety
    ///
    /// That of [`read`](Self::read), where the head's type is `T`.
    unsafe fn head<T: Logit>(&self) -> Result<LmHead<'a, T>> {
        let Given { head, numbers, .. } = self;
        // SAFETY: the caller's promise.
        unsafe {
            Ok(LmHead {
                hidden_size: numbers.hidden_size,
                hidden: slice("hidden", head.hidden.cast(), numbers.hidden_len)?,
                weight: slice("weight", head.weight.cast(), numbers.weight_len)?,
                bias: optional_slice("bias", head.bias.cast(), self.batch.vocab)?,
            })
        }
    }

    /// Where the gradients go.
    ///
    /// # Safety
    ///
    /// What `gradients` points to is null or as large as the header says, and nothing else uses it for `'a`; the head's type
    /// is `T`.
    unsafe fn gradients<T: Logit>(
        &self,
        gradients: &dpo_lm_head_gradients,
    ) -> Result<LmHeadGradients<'a, T>> {
        let Given { head, numbers, batch, .. } = self;
        check_gradients_apart(head, gradients, numbers, batch.vocab)?;
        let WantedGradients { hidden, weight, bias } = wanted(Some(gradients));
        // SAFETY: the caller's promise.
        unsafe {
            let of_hidden = || slice_mut("gradients.hidden", gradients.hidden.cast(), numbers.hidden_len);
            let of_weight = || slice_mut("gradients.weight", gradients.weight, numbers.weight_len);
            let of_bias = || slice_mut("gradients.bias", gradients.bias, batch.vocab);
            Ok(LmHeadGradients {
                hidden: hidden.then(of_hidden).transpose()?,
                weight: weight.then(of_weight).transpose()?,
                bias: bias.then(of_bias).transpose()?,
                upstream: upstream(gradients.upstream, gradient::upstream_scale(gradients)?)?,
            })
        }
    }
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_plan(
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    loss: *const dpo_loss,
    gradients: *const dpo_lm_head_gradients,
    plan: *mut dpo_lm_head_plan,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let Given { batch, numbers, labels, .. } = Given::read(batch, head)?;
        let loss = read_optional("loss", loss)?.map(|loss| loss::loss(loss)).transpose()?;
        let wanted = wanted(read_optional("gradients", gradients)?);
        let plan = pointer("plan", plan)?;
        let bytes_per_row = LmHeadWorkspace::bytes_per_row(batch.columns(), numbers.hidden_size);
        let budget = budget_bytes(&numbers);
        let made = LmHeadPlan::new(&batch, labels, loss.as_ref(), wanted, bytes_per_row, budget)?;
        let weight_block_bytes = LmHeadWorkspace::weight_block_bytes(numbers.dtype, numbers.hidden_size);
        plan.write(plan_of(&made, weight_block_bytes));
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_logps(
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    out: *const dpo_logps,
    workspace: *mut dpo_cpu_lm_head_workspace,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let given = Given::read(batch, head)?;
        let Given { batch, numbers, labels, .. } = &given;
        let out = results::logps(read("out", out)?)?;
        let mut out = out.convert::<HostBuffers<'_>, _>(&mut ToHost::new(batch.extent()))?;
        with_workspace(workspace, budget_bytes(numbers), |workspace| {
            with_logit!(numbers.dtype, T => {
                Ok(lm_head::logps(batch, &given.head::<T>()?, *labels, &mut out, workspace)?)
            })
        })?;
        let Ok(_) = out.convert(&mut WriteRecords);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_forward(
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    gradients: *const dpo_lm_head_gradients,
    workspace: *mut dpo_cpu_lm_head_workspace,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let given = Given::read(batch, head)?;
        let Given { batch, numbers, labels, .. } = &given;
        let (loss, inputs) = host_loss(loss, ref_logps, batch)?;
        let mut out = host_outputs(out, pair_outputs, batch.extent())?;
        let gradients = read_optional("gradients", gradients)?;
        let to = gradients.map_or(std::ptr::null_mut(), |gradients| gradients.nonfinite_row);
        let nonfinite_row = NonfiniteRow::judged(to)?;
        let status = with_workspace(workspace, budget_bytes(numbers), |workspace| {
            with_logit!(numbers.dtype, T => {
                let head = given.head::<T>()?;
                let mut gradients = match gradients {
                    Some(gradients) => given.gradients::<T>(gradients)?,
                    None => LmHeadGradients::default(),
                };
                Ok(lm_head::forward(
                    batch, &head, *labels, &inputs, &loss, &mut out, &mut gradients, workspace,
                )?)
            })
        })?;
        let Ok(_) = out.convert(&mut WriteRecords);
        nonfinite_row.lower(status);
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// What the header says of memory: every pointer is null or points to a live buffer of the documented size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_backward(
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    inputs: *const dpo_lm_head_backward_inputs,
    gradients: *const dpo_lm_head_gradients,
    workspace: *mut dpo_cpu_lm_head_workspace,
) -> dpo_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let given = Given::read(batch, head)?;
        let Given { batch, numbers, labels, .. } = &given;
        let inputs = read("inputs", inputs)?;
        let threshold = gradient::threshold(inputs)?;
        let inputs = BackwardPointers {
            logsumexp: inputs.logsumexp,
            logsumexp_residual: inputs.logsumexp_residual,
            coef: inputs.coef,
            token_coef: inputs.token_coef,
            entropy_coef: inputs.entropy_coef,
            entropy: inputs.entropy,
        };
        let inputs = inputs.in_host_memory(batch, threshold)?;
        let gradients = read("gradients", gradients)?;
        let nonfinite_row = NonfiniteRow::judged(gradients.nonfinite_row)?;
        let status = with_workspace(workspace, budget_bytes(numbers), |workspace| {
            with_logit!(numbers.dtype, T => {
                let head = given.head::<T>()?;
                let mut gradients = given.gradients::<T>(gradients)?;
                Ok(lm_head::backward(batch, &head, *labels, inputs, &mut gradients, workspace)?)
            })
        })?;
        nonfinite_row.lower(status);
        Ok(())
    })
}
