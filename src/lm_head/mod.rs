//! The language model's head: from hidden states to the loss and its gradients, without the logits.
//!
//! ```text
//! z  = X Wᵀ + b                     logits [rows, vocab], of which a chunk of rows exists at a time
//! dX = diag(c) (G W)                G[r, v] = (1[v = y_r] − softmax(z′[r])[v]) ∂z′/∂z,   c = ∂L/∂logp of each row
//! dW = Gᵀ (diag(c) X)
//! db = Gᵀ c
//! ```
//!
//! G is what [`cpu::factored`](crate::cpu::factored) calls the gradient without its coefficients; c comes from the loss, about
//! which the products know nothing: see the coefficient contract in the [crate's documentation](crate). Rows that are not
//! scored take no part: they are not multiplied, and their dX is exactly 0.
//!
//! What is here describes and plans, for every backend; [`cpu::lm_head`](crate::cpu::lm_head) carries it out in host memory, and
//! `cuda::LmHeadPass` on a GPU.

mod gradients;
mod plan;
mod regions;

pub use gradients::{LmHeadGradients, WantedGradients};
pub(crate) use plan::rows_within;
pub use plan::{Chunk, LmHeadPlan, Way};
pub use regions::{Region, check_apart};

use crate::batch::{COUNT_LIMIT, HostBatch};
use crate::dtype::Logit;
use crate::error::{Error, Result};

/// Hidden states and the head's weight, of which the logits are made.
///
/// The [`Batch`](crate::Batch) beside it describes rows, sequences, pairs and the transform as ever; its
/// [`row_stride`](crate::Batch::row_stride) is that of logits, of which there are none, and is not looked at. Rows of the
/// weight from [`valid_vocab`](crate::Transform::valid_vocab) on are padding: they are not multiplied, and have no gradient.
#[derive(Debug, Clone, Copy)]
pub struct LmHead<'a, T> {
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// X, `[rows, hidden_size]`. Those of rows that are not scored are not read.
    pub hidden: &'a [T],
    /// W, `[vocab, hidden_size]`.
    pub weight: &'a [T],
    /// b, `[vocab]`.
    pub bias: Option<&'a [T]>,
}

impl<T> LmHead<'_, T> {
    /// Checks the lengths, for a batch that is valid.
    pub(crate) fn check(&self, batch: &HostBatch<'_>) -> Result<()> {
        check_hidden_size(self.hidden_size)?;
        check_matrix("hidden", "[rows, hidden_size]", batch.rows(), self.hidden_size, self.hidden.len())?;
        check_matrix("weight", "[vocab, hidden_size]", batch.vocab, self.hidden_size, self.weight.len())?;
        self.bias.map_or(Ok(()), |bias| Error::check_len("bias", "[vocab]", batch.vocab, bias.len()))
    }
}

pub(crate) fn check_hidden_size(hidden_size: usize) -> Result<()> {
    if (1..=COUNT_LIMIT).contains(&hidden_size) {
        return Ok(());
    }
    Err(Error::value("hidden_size", format!("between 1 and {COUNT_LIMIT}"), hidden_size))
}

pub(crate) fn check_matrix(
    argument: &'static str,
    shape: &'static str,
    rows: usize,
    columns: usize,
    found: usize,
) -> Result<()> {
    Error::check_len(argument, shape, rows.saturating_mul(columns), found)
}

impl<T: Logit> LmHead<'_, T> {
    /// The hidden state of a row.
    pub(crate) fn state(&self, row: usize) -> &[T] {
        &self.hidden[row * self.hidden_size..][..self.hidden_size]
    }
}
