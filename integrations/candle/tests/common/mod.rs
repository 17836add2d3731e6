//! A batch of two pairs, as tensors and as the f64 reference takes it.

use candle_core::{DType, Device, Tensor};
use dpo_kernels::{HostBatch, LabelAlignment};
use dpo_kernels_candle::Targets;

pub const SEQUENCES: usize = 4;
pub const LEN: usize = 5;
pub const VOCAB: usize = 11;

/// Hugging Face's labels; the sequences have 4, 2, 3 and 4 scored tokens.
pub const LABELS: [i64; SEQUENCES * LEN] =
    [-100, 3, 1, 4, 1, -100, -100, -100, 5, 9, -100, 2, 6, 5, -100, -100, 3, 5, 8, 7];

/// f32 sums of a few dozen terms, and metrics rounded to f32, relative to the largest.
pub const TOLERANCE: f64 = 1e-5;

pub fn logits() -> Vec<f32> {
    (0..SEQUENCES * LEN * VOCAB).map(|i| (i * 7919 % 1601) as f32 / 200.0 - 4.0).collect()
}

pub fn vector(values: &[f32]) -> Option<Tensor> {
    Some(Tensor::new(values, &Device::Cpu).unwrap())
}

pub fn targets() -> Targets {
    let labels = Tensor::from_slice(&LABELS, (SEQUENCES, LEN), &Device::Cpu).unwrap();
    Targets::padded(&labels, LabelAlignment::NextToken).unwrap()
}

pub fn batch() -> HostBatch<'static> {
    HostBatch::padded(SEQUENCES, LEN, VOCAB, LabelAlignment::NextToken)
}

/// The numbers of a tensor in f64, in one row.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
pub fn assert_close(found: &Tensor, expected: &[f64]) {
    assert_within(TOLERANCE, found, expected);
}

/// That no number is further from the expected one than `tolerance` times the largest.
#[track_caller]
pub fn assert_within(tolerance: f64, found: &Tensor, expected: &[f64]) {
    let found = values(found);
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f64, |scale, x| scale.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "[{i}]: {found}, expected {expected}");
    }
}
