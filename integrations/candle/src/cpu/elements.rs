//! The elements of a CPU tensor, in their own type.

use candle_core::Layout;

/// How far the elements of a tensor reach: from its first to its last, with what a view leaves out in
/// between.
pub(super) fn extent(layout: &Layout) -> usize {
    let reaches =
        layout.dims().iter().zip(layout.stride()).map(|(&dim, &step)| Some(dim.checked_sub(1)? * step));
    reaches.sum::<Option<usize>>().map_or(0, |last| last + 1)
}

/// Evaluates `$body` with `$values` bound to the elements of a CPU tensor from its first to its last, as a
/// slice of their own type.
macro_rules! with_elements {
    ($tensor:expr, |$values:ident| $body:expr) => {{
        use candle_core::{CpuStorage, Storage};

        let (storage, layout) = $tensor.storage_and_layout();
        let start = layout.start_offset();
        let end = start + $crate::cpu::elements::extent(&layout);
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                let $values = &values[start..end];
                $body
            }
            Storage::Cpu(CpuStorage::F16(values)) => {
                let $values = &values[start..end];
                $body
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let $values = &values[start..end];
                $body
            }
            _ => unreachable!("logits are f32, f16 or bf16, and on the CPU"),
        }
    }};
}

pub(super) use with_elements;
