//! What several integration tests share: the golden vectors, and the tolerances that follow from the arithmetic.
#![allow(dead_code)] // every test uses its own part

pub mod golden;
pub mod head_case;
pub mod judge;
pub mod random;
pub mod tolerance;

/// The bits of floats, for comparisons in which NaN equals NaN and −0 differs from 0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// f32 results as f64, exactly.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
