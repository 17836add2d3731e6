//! A head of the header in the crate's terms, in whichever memory its arrays are.

use dpo_kernels::lm_head::{Region, check_apart};
use dpo_kernels::{Batch, DType, HostBatch, Labels, LmHeadPlan, Result, WantedGradients, Way};

use crate::batch::{self, in_host_memory};
use crate::given::given;
use crate::header::*;
use crate::inputs::{dtype, host_labels};
use crate::pointers::{Indices, read, value};

/// A head and the batch beside it, whose numbers are checked, and whose labels are there: those are in host memory wherever the
/// call is about.
pub(crate) struct Given<'a> {
    pub batch: HostBatch<'a>,
    pub head: &'a dpo_lm_head,
    pub numbers: Numbers,
    pub labels: Labels<'a>,
}

impl<'a> Given<'a> {
    /// # Safety
    ///
    /// `batch` and `head` are null or point to structs of the size that they say, whose index arrays and labels are null or as
    /// large as the header says, and stay as they are for `'a`.
    pub unsafe fn read(of_batch: *const dpo_batch, head: *const dpo_lm_head) -> Result<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            let batch = in_host_memory(batch(read("batch", of_batch)?)?)?;
            let head = read("head", head)?;
            let rows = batch.rows();
            let numbers = Numbers::of(head, rows, &batch)?;
            let labels = host_labels(head.label_type, head.labels, rows)?;
            Ok(Given { batch, head, numbers, labels })
        }
    }
}

/// The batch beside a head, of a valid shape: there are no logits whose rows could be apart.
fn batch(batch: &dpo_batch) -> Result<Batch<Indices>> {
    let given = batch::batch(batch)?;
    if batch.given & DPO_BATCH_ROW_STRIDE != 0 {
        let expected = "none, where logits are made of hidden states, which are dense";
        return Err(value("row_stride", expected, batch.row_stride));
    }
    Ok(given)
}

/// What a head says beside its arrays.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub dtype: DType,
    pub hidden_size: usize,
    /// Elements of hidden states and of the weight.
    pub hidden_len: usize,
    pub weight_len: usize,
    /// None where the default is meant.
    pub budget_bytes: Option<usize>,
}

impl Numbers {
    /// Those of a head, for a batch of a valid shape.
    fn of<A>(head: &dpo_lm_head, rows: usize, batch: &Batch<A>) -> Result<Self> {
        let (budget_bytes,) =
            given![head.given; DPO_LM_HEAD_BUDGET_BYTES => "budget_bytes": head.budget_bytes];
        let hidden_size = head.hidden_size;
        if !(1..=i32::MAX as usize).contains(&hidden_size) {
            return Err(value("hidden_size", format!("between 1 and {}", i32::MAX), hidden_size));
        }
        // No slice is larger than isize::MAX bytes: there is room for the widest element.
        let elements = |shape: &str, count: usize| {
            count.checked_mul(hidden_size).filter(|&len| len <= isize::MAX as usize / 4).ok_or_else(|| {
                let expected = format!("{shape} of fewer than 2^{} bytes in f32", isize::BITS - 1);
                value("hidden_size", expected, format!("{count} * {hidden_size} elements"))
            })
        };
        Ok(Numbers {
            dtype: dtype("dtype", head.dtype)?,
            hidden_size,
            hidden_len: elements("[rows, hidden_size]", rows)?,
            weight_len: elements("[vocab, hidden_size]", batch.vocab)?,
            budget_bytes,
        })
    }
}

/// Which gradients are wanted: those that have a place.
pub(crate) fn wanted(gradients: Option<&dpo_lm_head_gradients>) -> WantedGradients {
    gradients.map_or(WantedGradients::default(), |gradients| WantedGradients {
        hidden: !gradients.hidden.is_null(),
        weight: !gradients.weight.is_null(),
        bias: !gradients.bias.is_null(),
    })
}

/// What a plan says, with the bytes that a block of the weight takes.
pub(crate) fn plan(made: &LmHeadPlan, weight_block_bytes: usize) -> dpo_lm_head_plan {
    let rows = |way| {
        let chunks = made.chunks().iter().filter(|chunk| chunk.way == way);
        chunks.map(|chunk| chunk.rows.len()).sum()
    };
    dpo_lm_head_plan {
        chunks: made.chunks().len(),
        most_rows: made.most_rows(),
        chunk_bytes: made.chunk_bytes(),
        weight_block_bytes,
        multiplied_rows: made.multiplied_rows(),
        logps_rows: rows(Way::Logps),
        frozen_weight_rows: rows(Way::FrozenWeight),
        whole_pairs_rows: rows(Way::WholePairs),
        two_sweeps_rows: rows(Way::TwoSweeps),
    }
}

/// Refuses a gradient where hidden states, weight, bias or another gradient is.
pub(crate) fn check_gradients_apart(
    head: &dpo_lm_head,
    gradients: &dpo_lm_head_gradients,
    numbers: &Numbers,
    vocab: usize,
) -> Result<()> {
    let Numbers { dtype, hidden_len, weight_len, .. } = *numbers;
    let regions = [
        ("hidden", head.hidden.addr(), hidden_len, dtype, false),
        ("weight", head.weight.addr(), weight_len, dtype, false),
        ("bias", head.bias.addr(), vocab, dtype, false),
        ("gradients.hidden", gradients.hidden.addr(), hidden_len, dtype, true),
        ("gradients.weight", gradients.weight.addr(), weight_len, DType::F32, true),
        ("gradients.bias", gradients.bias.addr(), vocab, DType::F32, true),
    ];
    let is_there = |&(_, start, ..): &(&str, usize, usize, DType, bool)| start != 0;
    let regions = regions.into_iter().filter(is_there).map(|(argument, start, len, of, written)| Region {
        argument,
        start: start as u64,
        bytes: len * of.size(),
        written,
    });
    check_apart(&regions.collect::<Vec<_>>())
}
