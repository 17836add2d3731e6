//! The language model's head in f64: what [`cpu::lm_head`](crate::cpu::lm_head) does in chunks, all at once.
//!
//! ```
//! use dpo_kernels::{HostBatch, LabelAlignment, LmHead, PairInputs, PairLoss, reference};
//!
//! let batch = HostBatch::padded(2, 1, 3, LabelAlignment::Aligned);
//! let (hidden, weight) = ([1.0, 0.5, -0.5, 1.0], [0.1, 0.2, 0.3, -0.1, 0.0, 0.4]);
//! let head = LmHead { hidden_size: 2, hidden: &hidden, weight: &weight, bias: None };
//! let labels = [0i64, 2];
//!
//! let logits = reference::lm_head::logits(&batch, &head)?;
//! let logps = reference::logps(&batch, &logits, labels[..].into())?;
//! let inputs = PairInputs::reference(&[-1.0, -1.2]);
//! let pairs = reference::pair_loss(&batch, &logps.logps, None, &inputs, &PairLoss::sigmoid(0.1)?)?;
//! let dlogits = reference::backward(&batch, &logits, labels[..].into(), &logps.logsumexp, &pairs.coef, 1.0)?;
//! let gradients = reference::lm_head::gradients(&batch, &head, &dlogits)?;
//! assert_eq!((gradients.hidden.len(), gradients.weight.len(), gradients.bias.len()), (4, 6, 3));
//! # Ok::<(), dpo_kernels::Error>(())
//! ```

use crate::batch::HostBatch;
use crate::error::Result;
use crate::lm_head::LmHead;

/// z = X Wᵀ + b, `[rows, vocab]` at the row stride of the batch, as the other stages of the [reference](super) take it.
///
/// # Errors
///
/// Those of [`validate`](crate::Batch::validate) and of [`cpu::lm_head::logps`](crate::cpu::lm_head::logps) for the head.
pub fn logits<T: Copy + Into<f64>>(batch: &HostBatch<'_>, head: &LmHead<'_, T>) -> Result<Vec<f64>> {
    batch.validate()?;
    head.check(batch)?;
    let mut logits = vec![0.0; batch.logits_len()];
    for (row, state) in head.hidden.chunks(head.hidden_size).enumerate() {
        for (v, weight) in head.weight.chunks(head.hidden_size).enumerate() {
            let product: f64 = state.iter().zip(weight).map(|(&x, &w)| x.into() * w.into()).sum();
            logits[row * batch.row_stride + v] = product + head.bias.map_or(0.0, |bias| bias[v].into());
        }
    }
    Ok(logits)
}

/// The gradients of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// dX, `[rows, hidden_size]`.
    pub hidden: Vec<f64>,
    /// dW, `[vocab, hidden_size]`.
    pub weight: Vec<f64>,
    /// db, `[vocab]`.
    pub bias: Vec<f64>,
}

/// dX = dz W, dW = dzᵀ X and db = dzᵀ 1, from the gradient of the logits that [`backward`](super::backward) gives. Rows all of
/// whose dz is 0 take no part.
///
/// # Errors
///
/// Those of [`logits`], and [`Error::Length`](crate::Error::Length) that names `dlogits`.
pub fn gradients<T: Copy + Into<f64>>(
    batch: &HostBatch<'_>,
    head: &LmHead<'_, T>,
    dlogits: &[f64],
) -> Result<Gradients> {
    batch.validate()?;
    head.check(batch)?;
    batch.check_logits("dlogits", dlogits.len())?;
    let size = head.hidden_size;
    let mut out = Gradients {
        hidden: vec![0.0; head.hidden.len()],
        weight: vec![0.0; head.weight.len()],
        bias: vec![0.0; batch.vocab],
    };
    for row in 0..batch.rows() {
        let dz = &dlogits[row * batch.row_stride..][..batch.vocab];
        if dz.iter().all(|&dz| dz == 0.0) {
            continue;
        }
        for (v, &dz) in dz.iter().enumerate() {
            for k in 0..size {
                out.hidden[row * size + k] += dz * head.weight[v * size + k].into();
                out.weight[v * size + k] += dz * head.hidden[row * size + k].into();
            }
            out.bias[v] += dz;
        }
    }
    Ok(out)
}
