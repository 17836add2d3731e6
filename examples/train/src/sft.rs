//! The supervised warm-up: what an answer looks like, before which one is better.

use candle_core::{Device, Result, Tensor};
use candle_nn::loss::cross_entropy;
use dpo_kernels_candle::IGNORE_INDEX;

use crate::batches::collate;
use crate::model::Transformer;
use crate::tokenizer::Tokens;

/// Mean negative log-prob of the scored tokens of `sequences`.
pub fn loss(model: &Transformer, sequences: &[&Tokens], device: &Device) -> Result<Tensor> {
    let (tokens, _) = collate(sequences, device)?;
    let logits = model.forward(&tokens)?;
    let (rows, labels) = scored(sequences, tokens.dim(1)?);
    let logits = logits.flatten(0, 1)?.index_select(&Tensor::new(rows, device)?, 0)?;
    cross_entropy(&logits, &Tensor::new(labels, device)?)
}

/// The rows that predict a scored token, among `len` rows per sequence, and those tokens.
fn scored(sequences: &[&Tokens], len: usize) -> (Vec<u32>, Vec<u32>) {
    let mut rows_labels = (Vec::new(), Vec::new());
    for (s, tokens) in sequences.iter().enumerate() {
        for (t, &label) in tokens.labels.iter().enumerate().filter(|&(_, &label)| label != IGNORE_INDEX) {
            rows_labels.0.push((s * len + t - 1) as u32);
            rows_labels.1.push(label as u32);
        }
    }
    rows_labels
}
