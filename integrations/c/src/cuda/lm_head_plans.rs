//! From the header's structs to plans behind the language model's head, without a device.

use dpo_kernels::Result;
use dpo_kernels::cuda::plan::{
    self, Capacity, Device, DeviceAddress, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients,
    LmHeadMemory, LmHeadRows, LmHeadWorkspace, PairLossArguments, Plan,
};

use super::plans::{address, device_loss, entropy_buffers, logps_buffers, optional, pair_buffers};
use crate::given::given;
use crate::header::*;
use crate::inputs::dtype;
use crate::lm_head::{Given, plan as plan_of, wanted};
use crate::pointers::{pointer, read, read_optional, value};
use crate::{gradient, loss};

/// A plan, and what is to be on the device while it runs.
pub(crate) struct Pass {
    pub plan: Plan,
    /// Whose entries are copied.
    pub rows: LmHeadRows,
    /// Where they go.
    pub entries: DeviceAddress,
}

/// How much memory a workspace needs.
///
/// # Safety
///
/// Pointers to structs of the header are null, or point to ones of the size that they say; so do the pointers to structs,
/// terms and names in them. The labels and the index arrays of a batch are null, or as large as the header says. That also holds
/// for the other functions here.
pub(crate) unsafe fn workspace_bytes(workspace: *const dpo_cuda_lm_head_workspace) -> Result<usize> {
    // SAFETY: the caller's promise.
    let memory = memory(unsafe { read("workspace", workspace) }?)?;
    let worked_in = memory.workspace_bytes()?;
    let entries = LmHeadRows::most_entries(&memory.capacity).saturating_mul(size_of::<i32>());
    worked_in.checked_add(entries).ok_or_else(|| {
        let expected = "memory that does not reach beyond the last address";
        value("workspace", expected, format!("{worked_in} bytes, and {entries} for what is known of rows"))
    })
}

/// What `forward` will do, or `logps` without gradients.
///
/// # Safety
///
/// That of [`workspace_bytes`].
pub(crate) unsafe fn plan(
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    loss: *const dpo_loss,
    gradients: *const dpo_lm_head_gradients,
    workspace: *const dpo_cuda_lm_head_workspace,
) -> Result<dpo_lm_head_plan> {
    // SAFETY: the caller's promise.
    unsafe {
        let (given, rows) = scored(batch, head)?;
        let loss = read_optional("loss", loss)?.map(|loss| loss::loss(loss)).transpose()?;
        let wanted = wanted(read_optional("gradients", gradients)?);
        let memory = memory(read("workspace", workspace)?)?;
        memory.check_head(given.numbers.dtype, given.numbers.hidden_size)?;
        Ok(plan_of(&memory.plan(&rows, loss.as_ref(), wanted)?, 0))
    }
}

/// `logps`.
///
/// # Safety
///
/// That of [`workspace_bytes`].
pub(crate) unsafe fn logps(
    device: &Device,
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    out: *const dpo_logps,
    workspace: *const dpo_cuda_lm_head_workspace,
) -> Result<Pass> {
    // SAFETY: the caller's promise.
    unsafe {
        let (given, rows) = scored(batch, head)?;
        let out = logps_buffers(out)?;
        let gradients = DeviceLmHeadGradients::default();
        pass(&given, rows, read("workspace", workspace)?, |rows, entries, head, workspace| {
            plan::lm_head(device, rows, entries, given.batch.vocab, head, &out, None, &gradients, workspace)
        })
    }
}

/// `forward`.
///
/// # Safety
///
/// That of [`workspace_bytes`].
#[allow(clippy::too_many_arguments)] // those of the header's function
pub(crate) unsafe fn forward(
    device: &Device,
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    ref_logps: *const f32,
    loss: *const dpo_loss,
    out: *const dpo_logps,
    pair_outputs: *const dpo_pair_outputs,
    gradients: *const dpo_lm_head_gradients,
    workspace: *const dpo_cuda_lm_head_workspace,
) -> Result<Pass> {
    // SAFETY: the caller's promise.
    unsafe {
        let (given, rows) = scored(batch, head)?;
        let (loss, inputs) = device_loss(loss, ref_logps, &given.batch)?;
        let (out, pair_outputs) = (logps_buffers(out)?, pair_buffers("pair_outputs", pair_outputs)?);
        let loss = PairLossArguments { loss: &loss, inputs, out: &pair_outputs };
        let gradients = read_optional("gradients", gradients)?.map(device_gradients).transpose()?;
        let gradients = gradients.unwrap_or_default();
        pass(&given, rows, read("workspace", workspace)?, |rows, entries, head, workspace| {
            let (vocab, loss) = (given.batch.vocab, Some(&loss));
            plan::lm_head(device, rows, entries, vocab, head, &out, loss, &gradients, workspace)
        })
    }
}

/// `backward`.
///
/// # Safety
///
/// That of [`workspace_bytes`].
pub(crate) unsafe fn backward(
    device: &Device,
    batch: *const dpo_batch,
    head: *const dpo_lm_head,
    inputs: *const dpo_lm_head_backward_inputs,
    gradients: *const dpo_lm_head_gradients,
    workspace: *const dpo_cuda_lm_head_workspace,
) -> Result<Pass> {
    // SAFETY: the caller's promise.
    unsafe {
        let (given, rows) = scored(batch, head)?;
        let inputs = device_coef(read("inputs", inputs)?)?;
        let gradients = device_gradients(read("gradients", gradients)?)?;
        pass(&given, rows, read("workspace", workspace)?, |rows, entries, head, workspace| {
            let vocab = given.batch.vocab;
            plan::lm_head_backward(device, rows, entries, vocab, head, &inputs, &gradients, workspace)
        })
    }
}

/// What is given, and its scored rows.
///
/// # Safety
///
/// That of [`workspace_bytes`], for `'a`.
unsafe fn scored<'a>(batch: *const dpo_batch, head: *const dpo_lm_head) -> Result<(Given<'a>, LmHeadRows)> {
    // SAFETY: the caller's promise.
    let given = unsafe { Given::read(batch, head) }?;
    if let Some(budget_bytes) = given.numbers.budget_bytes {
        let expected = "none in a head on a GPU, whose workspace has the budget";
        return Err(value("budget_bytes", expected, budget_bytes));
    }
    let rows = LmHeadRows::new(&given.batch, given.labels)?;
    Ok((given, rows))
}

/// A pass with its plan, in a workspace of the caller's: the entries of the rows are behind what the plan works in.
fn pass(
    given: &Given<'_>,
    rows: LmHeadRows,
    workspace: &dpo_cuda_lm_head_workspace,
    plan: impl FnOnce(&LmHeadRows, DeviceAddress, &DeviceLmHead, &LmHeadWorkspace) -> Result<Plan>,
) -> Result<Pass> {
    let memory = memory(workspace)?;
    let start = address(pointer::<Aligned>("memory", workspace.memory.cast())?.as_ptr());
    // Where this is beyond the last address, the plan refuses the workspace.
    let entries = start.wrapping_add(memory.workspace_bytes()? as DeviceAddress);
    let head = DeviceLmHead {
        dtype: given.numbers.dtype,
        hidden_size: given.numbers.hidden_size,
        hidden: address(given.head.hidden),
        weight: address(given.head.weight),
        bias: optional(given.head.bias),
    };
    let plan = plan(&rows, entries, &head, &LmHeadWorkspace { address: start, memory })?;
    Ok(Pass { plan, rows, entries })
}

/// As a workspace is.
#[repr(align(256))]
struct Aligned;

/// What a workspace is laid out for.
pub(crate) fn memory(workspace: &dpo_cuda_lm_head_workspace) -> Result<LmHeadMemory> {
    let (logits_dtype, budget_bytes, product_bytes) = given![workspace.given;
        DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE => "logits_dtype": workspace.logits_dtype,
        DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES => "budget_bytes": workspace.budget_bytes,
        DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES => "product_bytes": workspace.product_bytes,
    ];
    let dpo_cuda_lm_head_workspace { sequences, rows, pairs, vocab, .. } = *workspace;
    let capacity = Capacity { sequences, rows, pairs, vocab };
    let logits_dtype = logits_dtype.map(|given| dtype("logits_dtype", given)).transpose()?;
    let of_dtype = LmHeadMemory::new(capacity, dtype("dtype", workspace.dtype)?, workspace.hidden_size);
    let defaults = logits_dtype.map_or(of_dtype, |logits_dtype| of_dtype.with_logits(logits_dtype));
    Ok(LmHeadMemory {
        budget_bytes: budget_bytes.unwrap_or(defaults.budget_bytes),
        product_bytes: product_bytes.unwrap_or(defaults.product_bytes),
        ..defaults
    })
}

fn device_gradients(gradients: &dpo_lm_head_gradients) -> Result<DeviceLmHeadGradients> {
    Ok(DeviceLmHeadGradients {
        hidden: optional(gradients.hidden),
        weight: optional(gradients.weight),
        bias: optional(gradients.bias),
        upstream: optional(gradients.upstream),
        upstream_scale: gradient::upstream_scale(gradients)?,
        nonfinite_row: optional(gradients.nonfinite_row),
    })
}

fn device_coef(inputs: &dpo_lm_head_backward_inputs) -> Result<DeviceLmHeadCoef> {
    Ok(DeviceLmHeadCoef {
        logsumexp: address(inputs.logsumexp),
        logsumexp_residual: optional(inputs.logsumexp_residual),
        coef: optional(inputs.coef),
        token_coef: optional(inputs.token_coef),
        entropy: entropy_buffers(inputs.entropy_coef, inputs.entropy)?,
        threshold: gradient::threshold(inputs)?,
    })
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use dpo_kernels::cuda::plan::{LogpsBuffers, Step};
    use dpo_kernels::{DType, HostBatch, LabelAlignment};

    use super::*;
    use crate::calls::DEVICE;

    fn at<T>(address: usize) -> *mut T {
        ptr::without_provenance_mut(address)
    }

    fn zeros<T>() -> T {
        // SAFETY: the structs of the header are numbers and pointers, for which zeros are a value.
        unsafe { std::mem::zeroed() }
    }

    fn workspace() -> dpo_cuda_lm_head_workspace {
        dpo_cuda_lm_head_workspace {
            struct_size: size_of::<dpo_cuda_lm_head_workspace>(),
            sequences: 4,
            rows: 100,
            pairs: 2,
            vocab: 1000,
            hidden_size: 64,
            dtype: DPO_BF16,
            given: 0,
            logits_dtype: 0,
            budget_bytes: 0,
            product_bytes: 0,
            memory: at(1 << 30),
        }
    }

    #[test]
    fn a_workspace_is_what_it_says_or_the_default() {
        let capacity = Capacity { sequences: 4, rows: 100, pairs: 2, vocab: 1000 };
        let defaults = LmHeadMemory::new(capacity, DType::BF16, 64);
        assert_eq!(memory(&workspace()), Ok(defaults));
        let given = dpo_cuda_lm_head_workspace {
            given: DPO_LM_HEAD_WORKSPACE_LOGITS_DTYPE
                | DPO_LM_HEAD_WORKSPACE_BUDGET_BYTES
                | DPO_LM_HEAD_WORKSPACE_PRODUCT_BYTES,
            logits_dtype: DPO_F32,
            budget_bytes: 1 << 20,
            product_bytes: 0,
            ..workspace()
        };
        let expected =
            LmHeadMemory { logits_dtype: DType::F32, budget_bytes: 1 << 20, product_bytes: 0, ..defaults };
        assert_eq!(memory(&given), Ok(expected));
    }

    /// Of the head's workspace the plan has the beginning, and the entries are behind that and within what was asked for.
    #[test]
    fn a_pass_is_the_plan_of_the_crate() {
        let labels = [7i64, -100, 9, 10];
        let mut batch: dpo_batch = zeros();
        batch.struct_size = size_of::<dpo_batch>();
        (batch.vocab, batch.sequences, batch.sequence_len) = (1000, 2, 2);
        batch.label_alignment = DPO_ALIGNED;
        let head = dpo_lm_head {
            struct_size: size_of::<dpo_lm_head>(),
            dtype: DPO_BF16,
            label_type: DPO_LABELS_I64,
            hidden_size: 64,
            hidden: at(0x1000),
            weight: at(0x10_0000),
            bias: ptr::null(),
            labels: labels.as_ptr().cast(),
            given: 0,
            budget_bytes: 0,
        };
        let mut out: dpo_logps = zeros();
        out.struct_size = size_of::<dpo_logps>();
        (out.logps, out.status) = (at(0x4000), at(0x5000));
        // SAFETY: the structs are there, with labels and without index arrays.
        let found = unsafe { logps(&DEVICE, &batch, &head, &out, &workspace()) }.unwrap();

        let batch = HostBatch::padded(2, 2, 1000, LabelAlignment::Aligned);
        let rows = LmHeadRows::new(&batch, labels[..].into()).unwrap();
        let memory = memory(&workspace()).unwrap();
        let entries = (1 << 30) + memory.workspace_bytes().unwrap() as DeviceAddress;
        let head = DeviceLmHead {
            dtype: DType::BF16,
            hidden_size: 64,
            hidden: 0x1000,
            weight: 0x10_0000,
            bias: None,
        };
        let out = LogpsBuffers { logps: Some(0x4000), status: Some(0x5000), ..LogpsBuffers::default() };
        let (none, workspace_of) =
            (DeviceLmHeadGradients::default(), LmHeadWorkspace { address: 1 << 30, memory });
        let plan = plan::lm_head(&DEVICE, &rows, entries, 1000, &head, &out, None, &none, &workspace_of);
        assert_eq!((&found.rows, found.entries), (&rows, entries));
        assert!(found.plan == plan.unwrap());
        assert!(found.plan.steps().iter().any(|step| matches!(step, Step::Product(_))));

        // SAFETY: the struct is there.
        let bytes = unsafe { workspace_bytes(&workspace()) }.unwrap();
        // cu_seqlens and scored rows, chosen and rejected, labels and rows.
        let most = 4 * (5 + 4 + 2 * 2 + 2 * 100);
        assert_eq!(entries + most, (1 << 30) + bytes as DeviceAddress);
    }
}
