//! Rows as the tuning table deals them to blocks: every entry, at its borders and at those of its slices.

use dpo_kernels::cuda::plan::{self, Arguments, DeviceAddress, Launch};
use dpo_kernels::cuda::tuning::{RowPartition, RowPass, TABLE};
use dpo_kernels::{DType, Logit, MetricsLevel};

use crate::case::{Case, Mask, Spec};
use crate::devices::deal;
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
fn sliced_vocabs(pass: RowPass, dtype: DType) -> Vec<usize> {
    let partition = |vocab| RowPartition::of(pass, dtype, vocab).params;
    let sliced = |vocab: &usize| partition(*vocab).slices > 1;
    let step = 4096 / dtype.size();
    let about = (step..).step_by(step).find(sliced).expect("long rows are sliced");
    let first = (about - step..).find(sliced).expect("that one at the latest");
    // Slices that are all full.
    let width = 16 / dtype.size();
    let even = (about..)
        .step_by(width)
        .find(|&vocab| vocab == width * (partition(vocab).slices * partition(vocab).slice_vectors) as usize)
        .expect("some row fills its slices");
    vec![first - 1, first, even - 1, even, even + 1]
}

/// Several blocks to a row, the rows of all cases together at every phase, with labels on both sides of a slice's border;
/// forward passes with every kind of token metrics in turn.
pub fn sliced_rows<T: Logit + Into<f64>>(executor: &mut OnDevice<impl Device>) {
    let width = 16 / size_of::<T>();
    for pass in [RowPass::Forward, RowPass::Backward] {
        for (index, vocab) in sliced_vocabs(pass, T::DTYPE).into_iter().enumerate() {
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
            let border = RowPartition::of(pass, T::DTYPE, vocab).params.slice_vectors as usize * width;
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
    let vocab = sliced_vocabs(RowPass::Forward, T::DTYPE)[3] + 5;
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

/// How the slices of a row are dealt to blocks does not show in the results: one to each, several, or the whole row to one.
pub fn dealing_keeps_the_bits<T: Logit + Into<f64>>(executor: &mut OnDevice<impl Device>) {
    let width = 16 / size_of::<T>();
    let slice = RowPartition::of(RowPass::Forward, T::DTYPE, 1 << 20).params.slice_vectors as usize * width;
    for (index, metrics) in MetricsLevel::EVERY.into_iter().enumerate() {
        // Four slices, and something of a fifth.
        let vocab = 4 * slice + 3 * width + 1;
        let mut case = Case::<T>::draw(Spec {
            sequences: 2,
            longest: 2,
            metrics,
            seed: index as u64,
            ..Spec::plain(vocab)
        });
        case.labels.set(0, (2 * slice) as i64);
        case.labels.set(3, dpo_kernels::IGNORE_INDEX);
        let mut dealt = |slices_per_block| {
            let mut executor = OnDevice(Dealt { device: &mut executor.0, slices_per_block });
            executor.run(&case)
        };
        let expected = dealt(1);
        Expected::of(&case).check("one slice to a block", &case, &expected);
        for slices_per_block in [2, 3, 5] {
            let found = dealt(slices_per_block);
            assert_eq!(found.logps, expected.logps, "{slices_per_block} slices to a block");
            assert_eq!(found.pairs, expected.pairs, "{slices_per_block} slices to a block");
        }
    }
}

/// A device whose forward launches deal the slices of a row otherwise than planned.
struct Dealt<'a, D> {
    device: &'a mut D,
    slices_per_block: u32,
}

impl<D: Device> Device for Dealt<'_, D> {
    fn name(&self) -> String {
        self.device.name()
    }

    fn properties(&self) -> plan::Device {
        self.device.properties()
    }

    fn upload(&mut self, bytes: &[u8], phase: usize) -> DeviceAddress {
        self.device.upload(bytes, phase)
    }

    fn reserve(&mut self, len: usize) -> DeviceAddress {
        self.device.reserve(len)
    }

    fn download(&mut self, address: DeviceAddress, len: usize) -> Vec<u8> {
        self.device.download(address, len)
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) {
        self.device.write(address, bytes);
    }

    fn launch(&mut self, launch: &Launch) {
        let mut launch = *launch;
        if let Arguments::Forward(params) = &mut launch.arguments {
            deal(&mut launch.grid, &mut params.partition, self.slices_per_block);
        }
        self.device.launch(&launch);
    }

    fn clear(&mut self) {
        self.device.clear();
    }
}
