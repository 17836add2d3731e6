//! A head of the header in the crate's terms, in whichever memory its arrays are.

use dpo_kernels::cpu::lm_head::LmHeadWorkspace;
use dpo_kernels::lm_head::{Region, check_apart};
use dpo_kernels::{Batch, DType, Result, WantedGradients};

use crate::batch;
use crate::given::given;
use crate::header::*;
use crate::inputs::dtype;
use crate::pointers::{Indices, value};

/// The batch beside a head, of a valid shape: there are no logits whose rows could be apart.
pub(crate) fn batch(batch: &dpo_batch) -> Result<Batch<Indices>> {
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
    pub budget_bytes: usize,
}

impl Numbers {
    /// Those of a head, for a batch of a valid shape.
    pub fn of<A>(head: &dpo_lm_head, rows: usize, batch: &Batch<A>) -> Result<Self> {
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
            dtype: dtype(head.dtype)?,
            hidden_size,
            hidden_len: elements("[rows, hidden_size]", rows)?,
            weight_len: elements("[vocab, hidden_size]", batch.vocab)?,
            budget_bytes: budget_bytes.unwrap_or(LmHeadWorkspace::DEFAULT_BUDGET_BYTES),
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
