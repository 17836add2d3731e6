//! What a call behind the language model's head is to answer on a GPU: the plan that the crate makes of the same arguments,
//! step by step, or a refusal where the crate refuses them.

use dpo_kernels::cuda::plan::{
    self, Capacity, DeviceAddress, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, EntropyBuffers,
    LmHeadMemory, LmHeadRows, LmHeadWorkspace, PairLossArguments,
};
use dpo_kernels::{Error, LmHeadPlan, Result};

use super::call::Call;
use super::description::{Description, Head, HeadWorkspace};
use super::verdict::refusal;
use crate::calls::{Arguments, DEVICE, Half, LmHead, Stage};
use crate::cuda::lm_head::dpo_cuda_lm_head_workspace_size;
use crate::cuda::lm_head_plans::Pass;
use crate::cuda::plans::{device_loss, logps_buffers, pair_buffers};
use crate::failure::{guard, header_name};
use crate::header::*;
use crate::lm_head::plan as plan_of;
use crate::names::{message, without_position};

/// What the plan of a pass is.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Truth {
    Pass(Pass),
    Plan(LmHeadPlan),
}

/// The truth, or why the call is to be refused. Addresses are those that the call is handed.
pub fn verdict(description: &Description, call: &Call, arguments: &Arguments) -> Result<Truth> {
    let (Some(of), Some(structs), Stage::LmHead(stage)) = (&description.head, &call.head, description.stage)
    else {
        unreachable!("it is behind a head")
    };
    let batch = description.host_batch();
    batch.validate()?;
    if batch.row_stride != batch.vocab {
        return Err(refusal("row_stride"));
    }
    let rows = description.with_labels(|labels| LmHeadRows::new(&batch, labels))?;
    // Losses, what they are given, and results are read as for calls with logits.
    // SAFETY: nothing is spoilt.
    let device_loss = || unsafe { device_loss(arguments.loss, arguments.ref_logps, &batch) };
    let has_loss = description.stage.has_loss() && of.has_loss;
    let loss = has_loss.then(device_loss).transpose()?;
    let memory = memory(&of.workspace);
    if stage == LmHead::Plan {
        memory.check_head(description.dtype, of.hidden_size)?;
        return Ok(Truth::Plan(memory.plan(
            &rows,
            loss.as_ref().map(|(loss, _)| loss),
            of.gradients.unwrap_or_default(),
        )?));
    }
    let workspace = LmHeadWorkspace { address: address(structs.workspace.memory), memory };
    // Behind what the plan works in.
    let entries = workspace.address + memory.workspace_bytes()? as DeviceAddress;
    let head = DeviceLmHead {
        dtype: description.dtype,
        hidden_size: of.hidden_size,
        hidden: address(structs.head.hidden),
        weight: address(structs.head.weight),
        bias: of.bias.as_ref().map(|_| address(structs.head.bias)),
    };
    let gradients = gradients(description, of, structs.gradients.as_ref());
    let vocab = batch.vocab;
    // SAFETY: as above.
    let plan = unsafe {
        match stage {
            LmHead::Plan => unreachable!("it has returned"),
            LmHead::Logps => {
                let (out, none) = (logps_buffers(arguments.out)?, DeviceLmHeadGradients::default());
                plan::lm_head(&DEVICE, &rows, entries, vocab, &head, &out, None, &none, &workspace)
            }
            LmHead::Forward => {
                let (loss, inputs) = loss.expect("a forward pass has one");
                let out = logps_buffers(arguments.out)?;
                let pairs = pair_buffers("pair_outputs", arguments.pair_outputs)?;
                let loss = PairLossArguments { loss: &loss, inputs, out: &pairs };
                let loss = Some(&loss);
                plan::lm_head(&DEVICE, &rows, entries, vocab, &head, &out, loss, &gradients, &workspace)
            }
            LmHead::Backward => {
                let (from, inputs) = (&description.gradient, &structs.inputs);
                let inputs = DeviceLmHeadCoef {
                    logsumexp: address(inputs.logsumexp),
                    logsumexp_residual: from.residual.then(|| address(inputs.logsumexp_residual)),
                    coef: from.coef.as_ref().map(|_| address(inputs.coef)),
                    token_coef: from.token_coef.as_ref().map(|_| address(inputs.token_coef)),
                    entropy: from.entropy.as_ref().map(|_| EntropyBuffers {
                        coef: address(inputs.entropy_coef),
                        entropy: address(inputs.entropy),
                    }),
                    threshold: from.threshold.unwrap_or(0.0),
                };
                plan::lm_head_backward(&DEVICE, &rows, entries, vocab, &head, &inputs, &gradients, &workspace)
            }
        }
    }?;
    Ok(Truth::Pass(Pass { plan, rows, entries }))
}

fn address<T>(pointer: *const T) -> DeviceAddress {
    pointer.addr() as DeviceAddress
}

fn memory(of: &HeadWorkspace) -> LmHeadMemory {
    let HeadWorkspace { sequences, rows, pairs, vocab, hidden_size, dtype, .. } = *of;
    let defaults = LmHeadMemory::new(Capacity { sequences, rows, pairs, vocab }, dtype, hidden_size);
    let defaults = defaults.with_logits(of.logits_dtype.unwrap_or(dtype));
    LmHeadMemory {
        budget_bytes: of.budget_bytes.unwrap_or(defaults.budget_bytes),
        product_bytes: of.product_bytes.unwrap_or(defaults.product_bytes),
        ..defaults
    }
}

fn gradients(
    description: &Description,
    of: &Head,
    structs: Option<&dpo_lm_head_gradients>,
) -> DeviceLmHeadGradients {
    let (Some(to), Some(wanted)) = (structs, of.gradients) else { return DeviceLmHeadGradients::default() };
    let from = &description.gradient;
    DeviceLmHeadGradients {
        hidden: wanted.hidden.then(|| address(to.hidden)),
        weight: wanted.weight.then(|| address(to.weight)),
        bias: wanted.bias.then(|| address(to.bias)),
        upstream: from.upstream.map(|_| address(to.upstream)),
        upstream_scale: from.upstream_scale.unwrap_or(1.0),
        nonfinite_row: from.nonfinite_row.map(|_| address(to.nonfinite_row)),
    }
}

/// Makes the plan of a call; where it is accepted, panics unless it is `truth`, if that is known. Returns what the call does.
pub fn planned(stage: LmHead, arguments: &Arguments, truth: Option<&Truth>) -> dpo_result {
    // SAFETY: what is not as the header asks is to be refused.
    let pass = || unsafe { arguments.pass_behind_head(stage) };
    match truth {
        Some(Truth::Plan(expected)) => {
            // SAFETY: a struct of numbers, for which zeros are a value.
            let mut found: dpo_lm_head_plan = unsafe { std::mem::zeroed() };
            let arguments = Arguments { plan: &mut found, ..*arguments };
            // SAFETY: as above.
            let result = unsafe { arguments.call(Half::Cuda, Stage::LmHead(stage)) };
            if result == DPO_OK {
                assert_eq!(format!("{found:?}"), format!("{:?}", plan_of(expected, 0)));
            }
            result
        }
        Some(Truth::Pass(expected)) => guard(|| {
            let found = pass()?;
            assert!(found.rows == expected.rows && found.entries == expected.entries, "rows");
            // A NaN is as good as another, and none is equal to itself.
            if found.plan != expected.plan {
                assert_eq!(format!("{:?}", found.plan), format!("{:?}", expected.plan));
            }
            let (workspace, mut bytes) = (arguments.cuda_head_workspace, 0);
            // SAFETY: as above.
            let result = unsafe { dpo_cuda_lm_head_workspace_size(workspace, &mut bytes) };
            assert_eq!(result, DPO_OK, "{}", message());
            // SAFETY: it was accepted.
            let start = address(unsafe { (*workspace).memory });
            let end = found.entries + size_of_val(found.rows.entries()) as DeviceAddress;
            assert!(end <= start + bytes as DeviceAddress, "entries beyond the workspace");
            Ok(())
        }),
        None if stage == LmHead::Plan => {
            // SAFETY: as above.
            unsafe { arguments.call(Half::Cuda, Stage::LmHead(stage)) }
        }
        None => guard(|| Ok(pass().map(drop)?)),
    }
}

/// The header's name of the argument in an error.
pub fn name_in(error: &Error) -> String {
    let message = error.to_string();
    let name = without_position(message.split(':').next().expect("there is a first part"));
    header_name(name).unwrap_or(name).to_string()
}
