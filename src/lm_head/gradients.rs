//! Where the gradients of a head go.

use super::check_matrix;
use crate::batch::HostBatch;
use crate::error::{Error, Result};

/// The gradients that are wanted of a pass through the head, in the caller's buffers.
///
/// ```
/// use dpo_kernels::LmHeadGradients;
///
/// // A frozen head, as under LoRA: the gradient of the hidden states alone.
/// let mut dhidden = vec![0.0f32; 8 * 16];
/// let frozen = LmHeadGradients { hidden: Some(&mut dhidden), ..LmHeadGradients::default() };
/// assert_eq!(frozen.wanted().products(), 1);
/// ```
#[derive(Debug)]
pub struct LmHeadGradients<'a, T> {
    /// dX, `[rows, hidden_size]`, overwritten; exactly 0 in rows that are not scored, or whose coefficient is 0.
    pub hidden: Option<&'a mut [T]>,
    /// dW, `[vocab, hidden_size]`, to which the gradient is added, so that micro-batches add up: zeroed by the caller before
    /// the first of them.
    pub weight: Option<&'a mut [f32]>,
    /// db, `[vocab]`, to which the gradient is added as to dW.
    pub bias: Option<&'a mut [f32]>,
    /// ∂L/∂loss, where the loss goes into a larger L whose gradients are wanted; 1 where that is the loss itself.
    pub upstream: f32,
}

impl<T> Default for LmHeadGradients<'_, T> {
    fn default() -> Self {
        LmHeadGradients { hidden: None, weight: None, bias: None, upstream: 1.0 }
    }
}

impl<T> LmHeadGradients<'_, T> {
    /// Which of them are wanted.
    pub fn wanted(&self) -> WantedGradients {
        WantedGradients {
            hidden: self.hidden.is_some(),
            weight: self.weight.is_some(),
            bias: self.bias.is_some(),
        }
    }

    /// Checks the lengths, for a batch that is valid.
    pub(crate) fn check(&self, batch: &HostBatch<'_>, hidden_size: usize) -> Result<()> {
        let len = |buffer: &Option<&mut [f32]>| buffer.as_ref().map(|buffer| buffer.len());
        if let Some(found) = self.hidden.as_ref().map(|buffer| buffer.len()) {
            check_matrix("gradients.hidden", "[rows, hidden_size]", batch.rows(), hidden_size, found)?;
        }
        if let Some(found) = len(&self.weight) {
            check_matrix("gradients.weight", "[vocab, hidden_size]", batch.vocab, hidden_size, found)?;
        }
        len(&self.bias)
            .map_or(Ok(()), |found| Error::check_len("gradients.bias", "[vocab]", batch.vocab, found))
    }
}

/// Which gradients are wanted of a pass through the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WantedGradients {
    /// dX.
    pub hidden: bool,
    /// dW.
    pub weight: bool,
    /// db.
    pub bias: bool,
}

impl WantedGradients {
    /// Products of the size of the logits' that they take: dX and dW one each; db, a product with one column, is not counted.
    pub fn products(self) -> usize {
        usize::from(self.hidden) + usize::from(self.weight)
    }
}
