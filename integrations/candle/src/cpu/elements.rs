//! The elements of a CPU tensor, in their own type.

/// Evaluates `$body` with `$values` bound to the elements of a CPU tensor from its first on, as a slice of their own type.
macro_rules! with_elements {
    ($tensor:expr, |$values:ident| $body:expr) => {{
        use candle_core::{CpuStorage, Storage};

        let (storage, layout) = $tensor.storage_and_layout();
        let start = layout.start_offset();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                let $values = &values[start..];
                $body
            }
            Storage::Cpu(CpuStorage::F16(values)) => {
                let $values = &values[start..];
                $body
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let $values = &values[start..];
                $body
            }
            _ => unreachable!("logits are f32, f16 or bf16, and on the CPU"),
        }
    }};
}

pub(super) use with_elements;
