//! Logits of any rank as rows of a vocabulary.

use candle_core::{DType, Device, Error, Layout, Result, Tensor};

use crate::checks;
use crate::no_gradient::NoGradient;
use crate::targets::Targets;

/// Logits that go with their targets, and whose rows lie at equal distances.
pub(crate) struct Logits {
    /// `[S, T, V]` or `[rows, V]`, f32, f16 or bf16.
    pub(crate) tensor: Tensor,
    /// V.
    pub(crate) vocab: usize,
    /// Elements from the start of one row to the start of the next.
    pub(crate) stride: usize,
}

impl Logits {
    /// Checks `logits` against `targets`, and makes them contiguous if their rows do not lie at equal
    /// distances.
    pub(crate) fn new(logits: &Tensor, targets: &Targets) -> Result<Self> {
        checks::dtype("logits (f32, f16 or bf16)", logits, &[DType::F32, DType::F16, DType::BF16])?;
        checks::same_device("logits", logits, &targets.labels)?;
        checks::rank("logits", logits, targets.labels.rank() + 1)?;
        let vocab = logits.dims()[logits.rank() - 1];
        checks::shape("logits", logits, &[targets.labels.dims(), &[vocab]].concat())?;
        Ok(match row_stride(logits.layout()) {
            Some(stride) => Logits { tensor: logits.clone(), vocab, stride },
            None => Logits { tensor: logits.contiguous()?, vocab, stride: vocab },
        })
    }

    /// Whether there is a variable in candle's graph that a gradient by these logits may run to.
    pub(crate) fn has_gradient(&self) -> bool {
        self.tensor.track_op()
    }

    /// For their results that have no gradient.
    pub(crate) fn no_gradient(&self) -> Result<NoGradient<'_>> {
        NoGradient::new(self.tensor.device(), self.has_gradient())
    }

    /// The shape of these logits with all that lies between the start of one row and the start of the next.
    pub(crate) fn shape_with_gaps(&self) -> Vec<usize> {
        let outer = &self.tensor.dims()[..self.tensor.rank() - 1];
        [outer, &[self.stride]].concat()
    }

    /// A tensor of that shape without what lies between the rows.
    pub(crate) fn without_gaps(&self, tensor: Tensor) -> Result<Tensor> {
        tensor.narrow(tensor.rank() - 1, 0, self.vocab)
    }
}

/// Refuses a tensor on a device that there is no backend for.
pub(crate) fn unsupported(name: &'static str, device: &Device) -> Error {
    Error::msg(format!(
        "{name}: expected a device that this crate was built for, found {:?}",
        device.location()
    ))
}

/// The distance of the rows, if they are dense in themselves, do not overlap, and lie at equal distances.
fn row_stride(layout: &Layout) -> Option<usize> {
    let (&vocab, outer) = layout.dims().split_last()?;
    let (&element, steps) = layout.stride().split_last()?;
    let (mut rows, mut stride) = (1, vocab);
    for (&dim, &step) in outer.iter().zip(steps).rev().filter(|&(&dim, _)| dim != 1) {
        if rows == 1 {
            stride = step;
        } else if step != rows * stride {
            return None;
        }
        rows *= dim;
    }
    ((element == 1 || vocab == 1) && stride >= vocab).then_some(stride)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn stride(view: impl FnOnce(Tensor) -> Result<Tensor>) -> Option<usize> {
        let dense = Tensor::zeros((3, 5, 7), DType::F32, &Device::Cpu).unwrap();
        row_stride(view(dense).unwrap().layout())
    }

    #[test]
    fn views_with_equidistant_rows_are_read_where_they_lie() {
        assert_eq!(stride(Ok), Some(7));
        assert_eq!(stride(|dense| dense.narrow(0, 1, 2)), Some(7));
        assert_eq!(stride(|dense| dense.narrow(2, 1, 4)), Some(7));
        assert_eq!(stride(|dense| dense.narrow(1, 4, 1)), Some(35));
        assert_eq!(stride(|dense| dense.narrow(0, 2, 1)?.narrow(1, 3, 1)?.narrow(2, 0, 2)), Some(2));
    }

    #[test]
    fn other_views_are_not() {
        assert_eq!(stride(|dense| dense.narrow(1, 0, 4)), None);
        assert_eq!(stride(|dense| dense.transpose(1, 2)), None);
        assert_eq!(stride(|dense| dense.narrow(1, 0, 1)?.broadcast_as((3, 5, 7))), None);
    }
}
