//! What a pass through the head needs beside its arguments, kept from call to call.

use rayon::prelude::*;

use crate::dtype::{DType, Logit};

/// Bytes of a block of the weight, widened to f32, at most; unless one row is larger.
const WEIGHT_BLOCK_BYTES: usize = 4 << 20;

/// Memory for a chunk of logits, and for what goes into and comes out of its products.
///
/// It grows to what the calls need, up to its budget, and is then kept: one for a whole run allocates once.
#[derive(Debug)]
pub struct LmHeadWorkspace {
    pub(super) budget_bytes: usize,
    /// Logits of a chunk, then G in their place.
    pub(super) logits: Vec<f32>,
    /// Hidden states of a chunk's rows, and their gradient.
    pub(super) hidden: Vec<f32>,
    pub(super) dhidden: Vec<f32>,
    /// A block of the weight, where it is not f32 by itself.
    pub(super) weight: Vec<f32>,
}

impl LmHeadWorkspace {
    /// Bytes of a chunk where nothing else is said.
    pub const DEFAULT_BUDGET_BYTES: usize = 512 << 20;

    /// For chunks of at most so many bytes, each of whose rows takes [`bytes_per_row`](Self::bytes_per_row).
    pub fn new(budget_bytes: usize) -> Self {
        LmHeadWorkspace { budget_bytes, logits: vec![], hidden: vec![], dhidden: vec![], weight: vec![] }
    }

    /// Takes chunks of at most so many bytes from now on. What it has grown to it keeps.
    pub fn set_budget_bytes(&mut self, budget_bytes: usize) {
        self.budget_bytes = budget_bytes;
    }

    /// Bytes that a row takes of a chunk: its logits, its hidden state and the gradient of that, all in f32. What
    /// [`LmHeadPlan::new`](crate::LmHeadPlan::new) takes for a plan of this backend.
    pub fn bytes_per_row(columns: usize, hidden_size: usize) -> usize {
        size_of::<f32>() * (columns + 2 * hidden_size)
    }

    /// Bytes beside the chunk: a block of a weight that is not f32.
    pub fn weight_block_bytes(dtype: DType, hidden_size: usize) -> usize {
        if dtype == DType::F32 { 0 } else { weight_block_rows(hidden_size) * hidden_size * size_of::<f32>() }
    }
}

impl Default for LmHeadWorkspace {
    /// With a budget of [512 MiB](Self::DEFAULT_BUDGET_BYTES).
    fn default() -> Self {
        LmHeadWorkspace::new(Self::DEFAULT_BUDGET_BYTES)
    }
}

/// Rows of the weight that are widened together.
fn weight_block_rows(hidden_size: usize) -> usize {
    (WEIGHT_BLOCK_BYTES / size_of::<f32>() / hidden_size.max(1)).max(1)
}

/// Calls `multiply` with each block of the rows of a weight, in f32, and the number of its first row. An f32 weight is one
/// block, as it is.
pub(super) fn for_each_block<T: Logit>(
    weight: &[T],
    hidden_size: usize,
    scratch: &mut Vec<f32>,
    mut multiply: impl FnMut(usize, &[f32]),
) {
    if let Some(weight) = as_f32(weight) {
        return multiply(0, weight);
    }
    let block_rows = weight_block_rows(hidden_size);
    for (index, block) in weight.chunks(block_rows * hidden_size).enumerate() {
        grow(scratch, block.len());
        let wide = &mut scratch[..block.len()];
        wide.par_chunks_mut(hidden_size).zip(block.par_chunks(hidden_size)).for_each(|(wide, block)| {
            wide.iter_mut().zip(block).for_each(|(wide, value)| *wide = value.to_f32());
        });
        multiply(index * block_rows, wide);
    }
}

/// Makes room for at least so many elements.
pub(super) fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        // What is there is not worth a copy.
        buffer.clear();
        buffer.resize(len, 0.0);
    }
}

/// Values of f32 as what they are.
fn as_f32<T: Logit>(values: &[T]) -> Option<&[f32]> {
    // SAFETY: T is f32, whose values these are: each DType is that of one type.
    (T::DTYPE == DType::F32)
        .then(|| unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) })
}
