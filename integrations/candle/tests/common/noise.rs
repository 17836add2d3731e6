//! Test data.

use candle_core::{Device, Tensor};

/// Numbers from −1 to 1 without a pattern.
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
