//! Rows as the tuning table deals them to blocks: every entry, at its borders and at those of its slices.

use dpo_kernels::cuda::tuning::{RowPartition, RowPass, TABLE};
use dpo_kernels::{DType, Logit, MetricsLevel};

use crate::case::{Case, Mask, Spec};
use crate::executor::{Device, Executor, OnDevice};
use crate::expected::Expected;
use crate::random::Random;

/// Several rows to a block: vocabularies at which the table goes on to another number of them, in batches whose last block
/// is partly filled and whose sequences begin and end inside blocks.
pub fn short_rows<T: Logit + Into<f64>>(executor: &mut OnDevice<impl Device>) {
    let mut random = Random(11);
    for entry in TABLE.iter().filter(|entry| entry.rows_per_block > 1) {
        let border = entry.row_bytes / size_of::<T>();
        for (vocab, row_stride) in [(border, border), (border - 1, border), (border + 1, border + 2)] {
            let case = Case::<T>::draw(Spec {
                row_stride,
                gradient_phase: random.pick(&[None, Some(4)]),
                sequences: 6,
                longest: 3,
                packed: random.below(2) == 0,
                mask: random.pick(&[Mask::Full, Mask::Holes, Mask::EmptySequence]),
                seed: random.next(),
                ..Spec::plain(vocab)
            });
            Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
        }
    }
}

/// Vocabularies of one slice and of several, just below, at and above where slices begin and end.
fn sliced_vocabs(pass: RowPass, capability: (u32, u32), dtype: DType) -> Vec<usize> {
    let partition = |vocab| RowPartition::of(pass, capability, dtype, vocab).params;
    let sliced = |vocab: &usize| partition(*vocab).blocks_per_row > 1;
    let step = 4096 / dtype.size();
    let about = (step..).step_by(step).find(sliced).expect("long rows are sliced");
    let first = (about - step..).find(sliced).expect("that one at the latest");
    // Slices that are all full.
    let width = 16 / dtype.size();
    let even = (about..)
        .step_by(width)
        .find(|&vocab| {
            vocab == width * (partition(vocab).blocks_per_row * partition(vocab).slice_vectors) as usize
        })
        .expect("some row fills its slices");
    vec![first - 1, first, even - 1, even, even + 1]
}

/// Several blocks to a row, the rows of all cases together at every phase, with labels on both sides of a slice's border;
/// forward passes with every kind of token metrics in turn.
pub fn sliced_rows<T: Logit + Into<f64>>(executor: &mut OnDevice<impl Device>) {
    let capability = executor.0.properties().capability;
    let width = 16 / size_of::<T>();
    for pass in [RowPass::Forward, RowPass::Backward] {
        for (index, vocab) in sliced_vocabs(pass, capability, T::DTYPE).into_iter().enumerate() {
            let mut case = Case::<T>::draw(Spec {
                row_stride: (vocab + 1) | 1,
                phase: size_of::<T>() * ((index + 3 * usize::from(pass == RowPass::Backward)) % width),
                gradient_phase: [None, Some(0), Some(size_of::<T>())][index % 3],
                sequences: 2,
                longest: 1,
                metrics: match pass {
                    RowPass::Forward => MetricsLevel::EVERY[index % 3],
                    RowPass::Backward => MetricsLevel::None,
                },
                seed: index as u64,
                ..Spec::plain(vocab)
            });
            let border =
                RowPartition::of(pass, capability, T::DTYPE, vocab).params.slice_vectors as usize * width;
            for (row, label) in [border - 1, border].into_iter().enumerate() {
                case.labels.set(row, label.min(vocab - 1) as i64);
            }
            Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
        }
    }
}

/// Neither the other rows of the call nor the place in memory show in the bits of a row of several slices, and where it is
/// not scored, nothing of it is read.
pub fn sliced_rows_keep_their_bits<T: Logit + Into<f64>>(executor: &mut OnDevice<impl Device>) {
    let capability = executor.0.properties().capability;
    let vocab = sliced_vocabs(RowPass::Forward, capability, T::DTYPE)[3] + 5;
    let mut case = Case::<T>::draw(Spec { sequences: 4, longest: 1, ..Spec::plain(vocab) });
    case.labels.set(3, dpo_kernels::IGNORE_INDEX);
    case.row_mut(3).fill(T::from_f32(f32::NAN));
    let expected = executor.run(&case);
    let moved = executor.run(&case.restrided(vocab + 3, 4));
    let alone = executor.run(&case.alone(1));
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let rows = |values: &[f32]| [1, 3].map(|row: usize| values[row].to_bits()).to_vec();
    assert_eq!(bits(&expected.logps.logsumexp), bits(&moved.logps.logsumexp));
    assert_eq!(bits(&expected.logps.token_logps), bits(&moved.logps.token_logps));
    assert_eq!(rows(&expected.logps.logsumexp), bits(&alone.logps.logsumexp));
    assert_eq!(rows(&expected.logps.token_logps), bits(&alone.logps.token_logps));
    assert_eq!(expected.logps.token_logps[3], 0.0);
    assert!(expected.dlogits[3 * vocab..][..vocab].iter().all(|dlogit| dlogit.to_f32() == 0.0));
}
