//! Calls behind the language model's head that are wrong in one thing each.

use std::ptr;

use super::call::Call;
use super::cases::{Case, each, misaligned};
use crate::calls::{LmHead, Stage};
#[cfg(feature = "cuda")]
use crate::cuda::lm_head::dpo_cuda_lm_head_workspace_size;
use crate::header::*;

const PLAN: Stage = Stage::LmHead(LmHead::Plan);
const LOGPS: Stage = Stage::LmHead(LmHead::Logps);
const FORWARD: Stage = Stage::LmHead(LmHead::Forward);
const BACKWARD: Stage = Stage::LmHead(LmHead::Backward);

/// More rows than memory has room for, and not too many to be counted.
const MANY_ROWS: usize = i32::MAX as usize / 2;

/// Those that both halves refuse.
pub(super) fn behind_head() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    cases.extend(each!(LOGPS;
        |call| &mut call.head => hidden weight bias labels;
        |call| &mut call.out => logps metrics status;
    ));
    cases.extend(each!(FORWARD;
        |call| &mut call.head => hidden weight bias labels;
        |call| &mut call.pair_outputs => coef metrics;
        |call| &mut call.gradients => upstream nonfinite_row;
        |call| call => ref_logps;
    ));
    cases.extend(each!(BACKWARD;
        |call| &mut call.head => hidden weight bias labels;
        |call| &mut call.backward_inputs => logsumexp logsumexp_residual coef token_coef;
        |call| &mut call.gradients => upstream nonfinite_row;
    ));
    cases.extend(each!(PLAN;
        |call| &mut call.head => labels;
        |call| call => plan;
    ));
    for stage in [FORWARD, BACKWARD] {
        let more: [Case; 10] = [
            (stage, "gradients.hidden", |call| call.gradients.hidden = misaligned()),
            (stage, "gradients.weight", |call| call.gradients.weight = misaligned()),
            (stage, "gradients.bias", |call| call.gradients.bias = misaligned()),
            // No gradient may be where one of the others, or what the call reads, is.
            (stage, "gradients.hidden", |call| call.gradients.hidden = call.head.hidden.cast_mut()),
            (stage, "gradients.hidden", |call| {
                // The last element of the weight.
                call.gradients.hidden = call.head.weight.wrapping_byte_add(4 * 5).cast_mut();
            }),
            (stage, "gradients.weight", |call| call.gradients.weight = call.head.weight.cast_mut().cast()),
            (stage, "gradients.bias", |call| {
                call.head.bias = call.memory.place::<f32>().cast();
                call.gradients.bias = call.head.bias.wrapping_byte_sub(8).cast_mut().cast();
            }),
            (stage, "gradients.bias", |call| call.gradients.bias = call.gradients.weight),
            (stage, "gradients", |call| call.gradients.struct_size -= 1),
            (stage, "upstream_scale", |call| call.gradients.upstream_scale = 1.0),
        ];
        cases.extend(more);
    }
    for stage in [PLAN, LOGPS, FORWARD, BACKWARD] {
        let more: [Case; 12] = [
            (stage, "batch", |call| call.batch.struct_size -= 1),
            (stage, "vocab", |call| call.batch.vocab = 0),
            (stage, "label_alignment", |call| call.batch.label_alignment = 0),
            (stage, "row_stride", |call| {
                (call.batch.given, call.batch.row_stride) = (DPO_BATCH_ROW_STRIDE, call.batch.vocab);
            }),
            (stage, "cu_seqlens[2]", |call| _ = call.packed()),
            (stage, "head", |call| call.head.struct_size -= 1),
            (stage, "dtype", |call| call.head.dtype = 9),
            (stage, "label_type", |call| call.head.label_type = 9),
            (stage, "given", |call| call.head.given = 1 << 31),
            (stage, "hidden_size", |call| call.head.hidden_size = 0),
            (stage, "hidden_size", |call| {
                call.batch.sequence_len = MANY_ROWS;
                call.head.hidden_size = i32::MAX as usize;
            }),
            (stage, "hidden_size", |call| {
                call.batch.vocab = i32::MAX as usize;
                call.head.hidden_size = i32::MAX as usize;
            }),
        ];
        cases.extend(more);
        // 4 (V + 2 H) bytes are a row; on a GPU the workspace has the budget.
        let budgets: [Case; 2] = [
            (stage, "budget_bytes", |call| call.head.budget_bytes = 28),
            (stage, "budget_bytes", |call| {
                (call.head.given, call.head.budget_bytes) = (DPO_LM_HEAD_BUDGET_BYTES, 27);
            }),
        ];
        cases.extend(budgets);
    }
    let more: [Case; 14] = [
        (PLAN, "loss", |call| call.has_loss = false),
        (PLAN, "loss", |call| call.loss.struct_size -= 1),
        (PLAN, "beta", |call| call.loss.beta = -1.0),
        (PLAN, "gradients", |call| call.gradients.struct_size -= 1),
        (FORWARD, "pairs", |call| call.batch.pairs = DPO_PAIRS_NONE),
        (FORWARD, "ref_logps", |call| call.ref_logps = ptr::null()),
        (BACKWARD, "inputs", |call| call.backward_inputs.struct_size -= 1),
        (BACKWARD, "threshold", |call| {
            (call.backward_inputs.given, call.backward_inputs.threshold) = (DPO_GRADIENT_THRESHOLD, -1.0);
        }),
        (BACKWARD, "given", |call| call.backward_inputs.given = DPO_GRADIENT_UPSTREAM_SCALE),
        (BACKWARD, "token_coef", |call| call.batch.given = DPO_BATCH_LD_ALPHA),
        (BACKWARD, "entropy", |call| call.backward_inputs.entropy_coef = call.memory.place()),
        (BACKWARD, "entropy", |call| {
            call.backward_inputs.entropy_coef = call.memory.place();
            call.backward_inputs.entropy = misaligned();
        }),
        (BACKWARD, "entropy_coef", |call| call.backward_inputs.entropy = call.memory.place()),
        (BACKWARD, "entropy_coef", |call| {
            call.backward_inputs.entropy_coef = misaligned();
            call.backward_inputs.entropy = call.memory.place();
        }),
    ];
    cases.extend(more);
    cases
}

/// What only the CPU takes: the handle of a workspace.
pub(super) fn behind_head_on_host() -> Vec<Case> {
    let case = |stage| -> Case { (stage, "workspace", |call| call.head_workspace = misaligned()) };
    [LOGPS, FORWARD, BACKWARD].map(case).to_vec()
}

/// What only a GPU takes: the struct of a workspace, and memory that nothing else is in.
#[cfg(feature = "cuda")]
pub(super) fn behind_head_on_device() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    for stage in [PLAN, LOGPS, FORWARD, BACKWARD] {
        let more: [Case; 18] = [
            (stage, "workspace", |call| call.cuda_head_workspace.struct_size -= 1),
            (stage, "sequences", |call| call.cuda_head_workspace.sequences -= 1),
            (stage, "rows", |call| call.cuda_head_workspace.rows -= 1),
            (stage, "rows", |call| call.cuda_head_workspace.rows = 0),
            (stage, "pairs", |call| call.cuda_head_workspace.pairs -= 1),
            (stage, "vocab", |call| call.cuda_head_workspace.vocab -= 1),
            (stage, "head", |call| call.cuda_head_workspace.hidden_size += 1),
            (stage, "head", |call| call.cuda_head_workspace.dtype = DPO_BF16),
            (stage, "dtype", |call| call.cuda_head_workspace.dtype = 9),
            (stage, "given", |call| call.cuda_head_workspace.given = 1 << 31),
            (stage, "logits_dtype", |call| call.cuda_head_workspace.logits_dtype = DPO_BF16),
            (stage, "logits_dtype", |call| give(call, DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE).logits_dtype = 9),
            (stage, "logits_dtype", |call| {
                give(call, DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE).logits_dtype = DPO_BF16;
            }),
            (stage, "budget_bytes", |call| call.cuda_head_workspace.budget_bytes = 1 << 20),
            // A row takes 4 · 8 bytes for V = 3, and 8 H.
            (stage, "budget_bytes", |call| give(call, DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES).budget_bytes = 47),
            (stage, "budget_bytes", |call| {
                (call.head.given, call.head.budget_bytes) = (DPO_LM_HEAD_BUDGET_BYTES, 1 << 20);
            }),
            (stage, "product_bytes", |call| call.cuda_head_workspace.product_bytes = 1 << 20),
            (stage, "workspace", |call| {
                give(call, DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES).product_bytes = usize::MAX;
            }),
        ];
        cases.extend(more);
    }
    for stage in [LOGPS, FORWARD, BACKWARD] {
        let more: [Case; 5] = [
            (stage, "memory", |call| call.cuda_head_workspace.memory = ptr::null_mut()),
            (stage, "memory", |call| {
                call.cuda_head_workspace.memory = call.cuda_head_workspace.memory.wrapping_byte_add(128);
            }),
            // It reaches beyond the last address.
            (stage, "workspace", |call| {
                call.cuda_head_workspace.memory = ptr::without_provenance_mut(usize::MAX - 255);
            }),
            (stage, "workspace", |call| call.head.hidden = call.cuda_head_workspace.memory),
            (stage, "bias", |call| call.head.bias = call.memory.place::<u8>().wrapping_byte_add(8).cast()),
        ];
        cases.extend(more);
    }
    for stage in [FORWARD, BACKWARD] {
        cases.push((stage, "gradients.hidden", |call| {
            call.gradients.hidden = call.cuda_head_workspace.memory.wrapping_byte_add(256);
        }));
        // Where the rows of the batch are, behind what is worked in.
        cases.push((stage, "gradients.weight", |call| {
            let mut bytes = 0;
            // SAFETY: both are there.
            let result = unsafe { dpo_cuda_lm_head_workspace_size(&call.cuda_head_workspace, &mut bytes) };
            assert_eq!(result, DPO_OK);
            let end = call.cuda_head_workspace.memory.wrapping_byte_add(bytes);
            call.gradients.weight = end.wrapping_byte_sub(16).cast();
        }));
    }
    cases
}

/// The workspace, with a number that is there.
#[cfg(feature = "cuda")]
fn give(call: &mut Call, bit: u32) -> &mut dpo_cuda_lm_head_workspace {
    call.cuda_head_workspace.given |= bit;
    &mut call.cuda_head_workspace
}
