//! What the stages do with one row of logits, compiled for each type of logits.

use std::any::Any;
use std::marker::PhantomData;

use half::{bf16, f16};

use super::element::Element;
use super::metric_sums::{AllSums, EntropySums, MetricSums, NoMetrics};
use super::online_sum::{RowSums, SumRow};
use super::row_gradient::{OfLogp, OfLogpAndEntropy, RowGradient, Source, WriteGradient};
use super::row_logp::RowLogp;
use super::row_metrics::{self, RowMetrics};
use super::simd;
use super::streaming::StreamZeros;
use super::transform::{TransformKind, with_transform};
use crate::dtype::{DType, Logit};

/// Operations on a row of `T`.
///
/// Every one of them is compiled for each instruction set and each kind of transform, which takes long. The stages are
/// generic over the type of logits and hence compiled in the crates that call them; that they reach the rows through
/// a trait object keeps the rows out of that, so that these are compiled once, here.
pub trait RowKernels<T>: Sync {
    /// The log-softmax of `row` at column `target`.
    fn logp(&self, row: &[T], target: usize, transform: TransformKind) -> RowLogp;

    /// [`logp`](Self::logp) and the entropy of the row, in nats, for one multiply-add more per column.
    fn logp_and_entropy(&self, row: &[T], target: usize, transform: TransformKind) -> (RowLogp, f32);

    /// [`logp`](Self::logp) and all token metrics.
    fn logp_and_metrics(&self, row: &[T], target: usize, transform: TransformKind) -> (RowLogp, RowMetrics);

    /// Writes the gradient of a row to `out`. It goes past the caches if `streamed`, unless it is written over its own
    /// logits, which are in the caches.
    fn write_gradient(&self, gradient: RowGradient, logits: Source<'_, T>, streamed: bool, out: &mut [T]);

    /// Writes the gradient of a row that takes no part: zeros. They go past the caches if `streamed`, also over the
    /// row's own logits, which nobody has read.
    fn write_zeros(&self, out: &mut [T], streamed: bool);
}

/// The operations on rows of `T`.
pub fn row_kernels<T: Logit>() -> &'static dyn RowKernels<T> {
    static F32: &dyn RowKernels<f32> = &Vectorized;
    static F16: &dyn RowKernels<f16> = &Vectorized;
    static BF16: &dyn RowKernels<bf16> = &Vectorized;
    let compiled: &dyn Any = match T::DTYPE {
        DType::F32 => &F32,
        DType::F16 => &F16,
        DType::BF16 => &BF16,
    };
    *compiled.downcast_ref::<&'static dyn RowKernels<T>>().expect("each DType is that of one type")
}

/// [`RowKernels`] by vectors.
struct Vectorized;

fn sum_row<T: Element, K: MetricSums>(row: &[T], target: usize, transform: TransformKind) -> RowSums<K> {
    let metrics = PhantomData;
    with_transform!(transform, transform => simd::run(SumRow { row, target, transform, metrics }))
}

impl<T: Element> RowKernels<T> for Vectorized {
    fn logp(&self, row: &[T], target: usize, transform: TransformKind) -> RowLogp {
        RowLogp::from(&sum_row::<T, NoMetrics>(row, target, transform))
    }

    fn logp_and_entropy(&self, row: &[T], target: usize, transform: TransformKind) -> (RowLogp, f32) {
        let sums = sum_row::<T, EntropySums>(row, target, transform);
        (RowLogp::from(&sums), row_metrics::entropy(&sums))
    }

    fn logp_and_metrics(&self, row: &[T], target: usize, transform: TransformKind) -> (RowLogp, RowMetrics) {
        let sums = sum_row::<T, AllSums>(row, target, transform);
        let row_logp = RowLogp::from(&sums);
        (row_logp, RowMetrics::new(row, target, transform, row_logp, &sums))
    }

    fn write_gradient(&self, gradient: RowGradient, logits: Source<'_, T>, streamed: bool, out: &mut [T]) {
        with_transform!(gradient.transform, transform => match gradient.entropy {
            None => {
                let factor = PhantomData::<OfLogp>;
                simd::run(WriteGradient { gradient, factor, transform, logits, streamed, out });
            }
            Some(_) => {
                let factor = PhantomData::<OfLogpAndEntropy>;
                simd::run(WriteGradient { gradient, factor, transform, logits, streamed, out });
            }
        });
    }

    fn write_zeros(&self, out: &mut [T], streamed: bool) {
        if streamed {
            simd::run(StreamZeros { out });
        } else {
            out.fill(T::from_f32(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::Transform;
    use crate::cpu::element::CHUNK;

    /// Logits from −8 to 8, in no order.
    fn logits<T: Logit>(count: usize) -> Vec<T> {
        (0..count).map(|i| T::from_f32((i * 7919 % 1601) as f32 / 100.0 - 8.0)).collect()
    }

    /// A gradient has the same bits in place, in another buffer and past the caches, wherever its row starts within a
    /// line of the caches, and nothing is written outside of the row.
    fn ways_to_write_agree<T: Logit + PartialEq + Debug>() {
        let kernels = row_kernels::<T>();
        let transform = TransformKind::from(&Transform::default());
        let row = logits::<T>(3 * CHUNK + 5);
        let RowLogp { logsumexp, residual, .. } = kernels.logp(&row, 70, transform);
        let gradient =
            RowGradient { target: Some(70), logsumexp, residual, coef: -0.25, entropy: None, transform };
        let mut in_place = row.clone();
        kernels.write_gradient(gradient, Source::InPlace, false, &mut in_place);
        let zeros = vec![T::from_f32(0.0); row.len()];
        let check = |expected: &[T], start: usize, write: &dyn Fn(&mut [T])| {
            let mut out = vec![T::from_f32(0.5); start + row.len() + CHUNK];
            write(&mut out[start..][..row.len()]);
            assert_eq!(out[start..][..row.len()], *expected);
            let outside = out[..start].iter().chain(&out[start + row.len()..]);
            assert!(outside.copied().all(|x| x == T::from_f32(0.5)), "written outside of the row");
        };
        for start in 0..CHUNK {
            for streamed in [false, true] {
                check(&in_place, start, &|out| {
                    kernels.write_gradient(gradient, Source::Separate(&row), streamed, out)
                });
                check(&zeros, start, &|out| kernels.write_zeros(out, streamed));
            }
        }
    }

    #[test]
    fn streaming_does_not_matter() {
        ways_to_write_agree::<f32>();
        ways_to_write_agree::<f16>();
        ways_to_write_agree::<bf16>();
    }

    /// The metrics that are asked for change neither the log-prob nor each other.
    fn metrics_agree<T: Logit>() {
        let kernels = row_kernels::<T>();
        let masked = |mut row: Vec<T>| {
            row.iter_mut().step_by(3).for_each(|z| *z = T::from_f32(f32::NEG_INFINITY));
            row
        };
        let transforms = [
            Transform::default(),
            Transform { scale: 0.7, ..Transform::default() },
            Transform { softcap: Some(5.0), ..Transform::default() },
        ];
        for count in [1, 64, 255, 1000] {
            for row in [logits::<T>(count), masked(logits::<T>(count))] {
                for transform in transforms.iter().map(TransformKind::from) {
                    let target = count / 2;
                    let alone = kernels.logp(&row, target, transform);
                    let (with_entropy, entropy) = kernels.logp_and_entropy(&row, target, transform);
                    let (with_metrics, metrics) = kernels.logp_and_metrics(&row, target, transform);
                    let bits = |row: RowLogp| [row.logp, row.logsumexp, row.residual].map(f32::to_bits);
                    assert_eq!(bits(with_entropy), bits(alone), "{count} logits, {transform:?}");
                    assert_eq!(bits(with_metrics), bits(alone), "{count} logits, {transform:?}");
                    assert_eq!(metrics.entropy.to_bits(), entropy.to_bits(), "{count} logits, {transform:?}");
                }
            }
        }
    }

    #[test]
    fn metrics_do_not_matter() {
        metrics_agree::<f32>();
        metrics_agree::<f16>();
        metrics_agree::<bf16>();
    }
}
