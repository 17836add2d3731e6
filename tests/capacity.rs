//! Memory that is allocated once serves batches of every shape within its capacity.
#![cfg(feature = "cuda")]

#[path = "common/devices.rs"]
#[allow(dead_code)]
mod devices;

use std::ops::Range;

use devices::A100;
use dpo_kernels::cuda::params::{DpoForward, DpoProgress, DpoSliceSum, DpoTokenMetricSums};
use dpo_kernels::cuda::plan::{
    self, Arguments, Capacity, DeviceAddress, DeviceArray, DeviceBatch, DevicePairInputs, ForwardBuffers,
    GradientBuffers, Inputs, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan, TokenMetricBuffers,
    Workspace, pack_index_arrays, workspace_bytes,
};
use dpo_kernels::cuda::tuning::most_slice_sums;
use dpo_kernels::{
    Batch, DType, Error, HostBatch, LabelAlignment, LabelType, PairLoss, Pairs, Sequences, Transform,
};
use proptest::prelude::*;

const INDICES: DeviceAddress = 0x1_0000;
const WORKSPACE: DeviceAddress = 0x1_0000_0000;
const LOGITS: DeviceAddress = 0xf_0000_0000;

fn inputs(dtype: DType) -> Inputs {
    Inputs { dtype, logits: LOGITS, label_type: LabelType::I64, labels: 0x2000, window: None }
}

/// What must be given, and a mean of token metrics, by which everything that is summed goes through the
/// workspace.
fn out() -> ForwardBuffers {
    ForwardBuffers {
        logps: LogpsBuffers {
            logps: Some(0x3000),
            status: Some(0x4000),
            metrics: Some(TokenMetricBuffers { mean: Some(0x5000), ..TokenMetricBuffers::default() }),
            ..LogpsBuffers::default()
        },
        pairs: PairOutputBuffers {
            pair_losses: Some(0x6000),
            chosen_rewards: Some(0x7000),
            rejected_rewards: Some(0x8000),
            margins: Some(0x9000),
            coef: Some(0xa000),
            metrics: Some(0xb000),
        },
    }
}

/// A batch that owns its index arrays.
#[derive(Debug, Clone)]
struct Owned {
    /// Rows of each sequence.
    lens: Vec<usize>,
    /// Row boundaries, or none for sequences of as many rows each.
    cu_seqlens: Option<Vec<i32>>,
    pairs: Pairs<Vec<i32>>,
    vocab: usize,
    valid_vocab: Option<usize>,
}

impl Owned {
    fn batch(&self) -> HostBatch<'_> {
        let rows = self.lens.iter().sum();
        let sequences = match &self.cu_seqlens {
            Some(cu_seqlens) => Sequences::Packed { cu_seqlens: &cu_seqlens[..], rows },
            None => Sequences::Padded { count: self.lens.len(), len: self.lens[0] },
        };
        Batch {
            pairs: self.pairs.try_map_indices(|array| Ok(&array[..])).expect("nothing refuses a slice"),
            transform: Transform { valid_vocab: self.valid_vocab, ..Transform::default() },
            ..Batch::new(self.vocab, sequences, LabelAlignment::Aligned)
        }
    }

    fn packed(&self) -> (DeviceBatch, Vec<i32>) {
        let mut entries = Vec::new();
        (pack_index_arrays(&self.batch(), INDICES, &mut entries).unwrap(), entries)
    }
}

prop_compose! {
    fn owned()(
        mut lens in prop::collection::vec(0..9usize, 1..9),
        padded in any::<bool>(),
        kind in 0..4,
        draws in prop::collection::vec((0..100usize, 0..100usize), 1..9),
        vocab in prop_oneof![1..40usize, 1..300_000usize],
        valid_vocab in prop::option::of(1..300_000usize),
    ) -> Owned {
        // Sequences come in twos where the layout asks for it, and there is a row.
        if lens.len() % 2 == 1 && kind < 2 {
            lens.push(1);
        }
        if padded || lens.iter().sum::<usize>() == 0 {
            let len = lens[0].max(1);
            lens.fill(len);
        }
        let sequences = lens.len();
        let ends = lens.iter().scan(0, |end, len| { *end += *len as i32; Some(*end) });
        let cu_seqlens = (!padded).then(|| std::iter::once(0).chain(ends).collect());
        let indexed = |(chosen, distance): &(usize, usize)| {
            let chosen = chosen % sequences;
            (chosen as i32, ((chosen + 1 + distance % (sequences - 1)) % sequences) as i32)
        };
        let pairs = match kind {
            0 => Pairs::Interleaved,
            1 => {
                let (chosen, rejected) = draws.iter().map(indexed).unzip();
                Pairs::Indexed { chosen, rejected }
            }
            2 => Pairs::Unpaired { desirable: (0..sequences).map(|s| (s % 3) as i32).collect() },
            _ => Pairs::None,
        };
        Owned { lens, cu_seqlens, pairs, vocab, valid_vocab: valid_vocab.filter(|&valid| valid <= vocab) }
    }
}

/// Everything that a forward launch has in its workspace: the counters, and the rest.
fn regions(params: &DpoForward) -> (Vec<Range<DeviceAddress>>, Vec<Range<DeviceAddress>>) {
    let (rows, sequences) = (u64::from(params.batch.rows), u64::from(params.batch.sequences));
    let region = |start: DeviceAddress, bytes: u64| start..start + bytes;
    let slices = match u64::from(params.partition.blocks_per_row) {
        1 => 0,
        slices => rows * slices,
    };
    let m = &params.metrics;
    let counters = vec![
        region(params.progress, size_of::<DpoProgress>() as u64),
        region(params.sequence_rows_done, 4 * sequences),
        region(params.row_slices_done, 4 * rows),
    ];
    let rest = vec![
        region(params.token_logps, 4 * rows),
        region(params.scored, 4 * sequences),
        region(params.logsumexp, 4 * rows),
        region(m.entropy, 4 * rows),
        region(m.correct, 4 * rows),
        region(m.mean_logit, 4 * rows),
        region(m.sum_p2, 4 * rows),
        region(params.slice_sums, slices * size_of::<DpoSliceSum>() as u64),
        region(m.sums, sequences * size_of::<DpoTokenMetricSums>() as u64),
    ];
    (counters, rest)
}

fn overlap(a: &Range<DeviceAddress>, b: &Range<DeviceAddress>) -> bool {
    a.start < b.end && b.start < a.end
}

fn forward_params(plan: &Plan) -> DpoForward {
    match plan.launches().next().expect("a launch").arguments {
        Arguments::Forward(params) => params,
        other => panic!("not a forward launch: {other:?}"),
    }
}

proptest! {
    /// The workspace: what a launch leaves in it is never where a launch over another batch counts, on any
    /// device and for any dtype, and everything lies within it. The other buffers: they are as long as the
    /// longest needs.
    #[test]
    fn one_capacity_serves_every_batch_within_it(all in prop::collection::vec(owned(), 1..5)) {
        let capacity = all.iter().map(|owned| Capacity::of(&owned.batch())).reduce(Capacity::max).unwrap();
        let bytes = capacity.workspace_bytes().unwrap() as u64;
        let (mut counters, mut rest) = (Vec::new(), Vec::new());
        for owned in &all {
            let batch = owned.batch();
            capacity.check(&batch).unwrap();
            prop_assert!(workspace_bytes(&batch).unwrap() as u64 <= bytes);
            let (on_device, entries) = owned.packed();
            prop_assert!(entries.len() <= capacity.index_entries());
            // An address that is aligned to 4, and no more.
            let workspace = Workspace { address: WORKSPACE + 4, capacity: Some(capacity) };
            let all_dtypes = |device| DType::ALL.map(|dtype| (device, dtype));
            for (device, dtype) in devices::ALL.iter().flat_map(all_dtypes) {
                let plan = plan::forward(device, &on_device, &inputs(dtype), &out().logps, None, workspace);
                let (own_counters, own_rest) = regions(&forward_params(&plan.unwrap()));
                let own: Vec<_> = own_counters.iter().chain(&own_rest).collect();
                for (at, region) in own.iter().enumerate() {
                    prop_assert!(region.start >= WORKSPACE + 4 && region.end <= WORKSPACE + 4 + bytes);
                    prop_assert!(own[..at].iter().all(|other| !overlap(region, other)), "{own:x?}");
                }
                counters.extend(own_counters);
                rest.extend(own_rest);
            }
        }
        for counter in &counters {
            prop_assert!(rest.iter().all(|other| !overlap(counter, other)), "{counter:x?} {rest:x?}");
        }
    }

    /// Index arrays come to the device as they are, one after the other.
    #[test]
    fn index_arrays_are_packed(owned in owned()) {
        let (batch, entries) = owned.packed();
        let mut end = INDICES;
        let mut found = |array: DeviceArray| {
            prop_assert_eq!(array.address, end);
            let start = (end - INDICES) as usize / 4;
            end += 4 * array.len as u64;
            Ok(entries[start..start + array.len].to_vec())
        };
        if let (Sequences::Packed { cu_seqlens, .. }, Some(expected)) = (batch.sequences, &owned.cu_seqlens) {
            prop_assert_eq!(&found(cu_seqlens)?, expected);
        }
        match (batch.pairs, &owned.pairs) {
            (Pairs::Indexed { chosen, rejected }, Pairs::Indexed { chosen: w, rejected: l }) => {
                prop_assert_eq!(&found(chosen)?, w);
                prop_assert_eq!(&found(rejected)?, l);
            }
            (Pairs::Unpaired { desirable }, Pairs::Unpaired { desirable: expected }) => {
                prop_assert_eq!(&found(desirable)?, expected);
            }
            (Pairs::None, Pairs::None) | (Pairs::Interleaved, Pairs::Interleaved) => (),
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert_eq!(end, INDICES + 4 * entries.len() as u64);
    }
}

/// On which a workspace for the longest row relies.
#[test]
fn a_longer_row_never_leaves_fewer_sums() {
    let vocabs = (1..300_000).chain((300_000..i32::MAX as usize).step_by(99_991));
    vocabs.fold(0, |before, vocab| {
        let sums = most_slice_sums(vocab);
        assert!(sums >= before, "vocab {vocab}: {sums} after {before}");
        sums
    });
}

/// Where a workspace would end is an address too.
#[test]
fn a_workspace_beyond_the_last_address_is_refused() {
    let batch = DeviceBatch::padded(4, 8, 40_000, LabelAlignment::Aligned);
    for capacity in [None, Some(Capacity::of(&batch))] {
        let workspace = Workspace { address: u64::MAX - 3, capacity };
        let plan = plan::forward(&A100, &batch, &inputs(DType::F32), &out().logps, None, workspace);
        let error = plan.unwrap_err().to_string();
        let text = "workspace: expected memory that does not reach beyond the last address, found 0xfffffffffffffffc";
        assert_eq!(error, text);
    }
}

/// A workspace that is not told its capacity is laid out for the batch alone.
#[test]
fn an_address_is_a_workspace_for_one_shape() {
    let batch = DeviceBatch::padded(4, 8, 40_000, LabelAlignment::Aligned);
    let plan = |workspace: Workspace| {
        plan::forward(&A100, &batch, &inputs(DType::BF16), &out().logps, None, workspace).unwrap()
    };
    let alone = plan(WORKSPACE.into());
    let fitting = Workspace { address: WORKSPACE, capacity: Some(Capacity::of(&batch)) };
    assert_eq!(plan(fitting), alone);
    let larger = Capacity { rows: 33, ..Capacity::of(&batch) };
    assert_ne!(plan(Workspace { address: WORKSPACE, capacity: Some(larger) }), alone);
}

/// A graph replays after another batch with the same counts is bound: everything that was captured is the
/// same.
#[test]
fn equal_counts_are_launched_alike() {
    let capacity = Capacity { sequences: 6, rows: 100, pairs: 9, vocab: 70_000 };
    let workspace = Workspace { address: WORKSPACE, capacity: Some(capacity) };
    let plans = |cu_seqlens: &[i32], chosen: &[i32], rejected: &[i32]| {
        let rows = *cu_seqlens.last().unwrap() as usize;
        let pairs = Pairs::Indexed { chosen, rejected };
        let batch =
            HostBatch { pairs, ..HostBatch::packed(cu_seqlens, rows, 60_000, LabelAlignment::Aligned) };
        capacity.check(&batch).unwrap();
        let batch = pack_index_arrays(&batch, INDICES, &mut Vec::new()).unwrap();
        let (inputs, out) = (inputs(DType::BF16), out());
        let loss = PairLoss::sigmoid(0.1).unwrap().without_reference();
        let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::NONE, out: &out.pairs };
        let gradient = GradientBuffers {
            logsumexp: 0xc000,
            logsumexp_residual: None,
            coef: out.pairs.coef,
            token_coef: None,
            entropy: None,
            upstream: None,
            upstream_scale: 1.0,
            threshold: 0.0,
            nonfinite_row: None,
            dlogits: LOGITS,
        };
        let logps = LogpsBuffers { metrics: None, ..out.logps };
        [
            plan::forward(&A100, &batch, &inputs, &out.logps, Some(&loss), workspace).unwrap(),
            plan::factored(&A100, &batch, &inputs, &logps, Some(&loss), LOGITS, workspace).unwrap(),
            plan::backward(&A100, &batch, &inputs, &gradient).unwrap(),
        ]
    };
    let captured = plans(&[0, 5, 9, 17, 30], &[0, 2], &[1, 3]);
    assert_eq!(plans(&[0, 1, 1, 29, 30], &[3, 1], &[0, 2]), captured);
    let others = [
        plans(&[0, 5, 9, 17, 31], &[0, 2], &[1, 3]),
        plans(&[0, 5, 9, 17, 20, 30], &[0, 2], &[1, 3]),
        plans(&[0, 5, 9, 17, 30], &[0, 2, 1], &[1, 3, 2]),
    ];
    for other in others {
        assert_ne!(other[0], captured[0]);
    }
}

#[test]
fn what_is_beyond_a_capacity_is_refused_by_name() {
    let capacity = Capacity { sequences: 4, rows: 12, pairs: 2, vocab: 50 };
    let refused = |batch: &HostBatch| capacity.check(batch).unwrap_err().to_string();
    let batch = HostBatch::padded(4, 3, 50, LabelAlignment::Aligned);
    capacity.check(&batch).unwrap();
    // A stride is no part of it, and neither are columns that the softmax leaves out.
    capacity.check(&HostBatch { row_stride: 64, ..batch }).unwrap();
    let pairs = Pairs::None;
    let six = HostBatch { pairs, ..HostBatch::padded(6, 2, 50, LabelAlignment::Aligned) };
    assert_eq!(refused(&six), "sequences: expected at most 4, the capacity, found 6");
    assert_eq!(
        refused(&HostBatch::padded(4, 4, 50, LabelAlignment::Aligned)),
        "rows: expected at most 12, the capacity, found 16"
    );
    assert_eq!(
        refused(&HostBatch::padded(4, 3, 51, LabelAlignment::Aligned)),
        "vocab: expected at most 50, the capacity, found 51"
    );
    let pairs = Pairs::Indexed { chosen: &[0, 1, 2][..], rejected: &[1, 2, 3] };
    let three = HostBatch { pairs, ..batch };
    assert_eq!(refused(&three), "pairs: expected at most 2, the capacity, found 3");
    let pairs = Pairs::Unpaired { desirable: &[1, 0, 1, 0][..] };
    let unpaired = HostBatch { pairs, ..batch };
    assert_eq!(refused(&unpaired), "pairs: expected at most 2, the capacity, found 4");
    // What is wrong with a batch itself is said first.
    assert_eq!(
        refused(&HostBatch { row_stride: 7, ..HostBatch::padded(400, 3, 50, LabelAlignment::Aligned) })
            .split(':')
            .next(),
        Some("row_stride")
    );

    // A launch is refused as the check is.
    let larger = DeviceBatch::padded(4, 4, 50, LabelAlignment::Aligned);
    let workspace = Workspace { address: WORKSPACE, capacity: Some(capacity) };
    let logps = LogpsBuffers { metrics: None, ..out().logps };
    let inputs = inputs(DType::F32);
    for plan in [
        plan::forward(&A100, &larger, &inputs, &logps, None, workspace),
        plan::factored(&A100, &larger, &inputs, &logps, None, LOGITS, workspace),
    ] {
        assert_eq!(plan.unwrap_err().to_string(), "rows: expected at most 12, the capacity, found 16");
    }
}

#[test]
fn a_capacity_that_no_batch_has_is_refused() {
    let capacity = Capacity { sequences: 4, rows: 12, pairs: 0, vocab: 50 };
    capacity.validate().unwrap();
    for (argument, bad) in [
        ("sequences", Capacity { sequences: 0, ..capacity }),
        ("rows", Capacity { rows: 1 << 31, ..capacity }),
        ("pairs", Capacity { pairs: usize::MAX, ..capacity }),
        ("vocab", Capacity { vocab: 0, ..capacity }),
    ] {
        for refused in [
            bad.validate(),
            bad.workspace_bytes().map(|_| ()),
            bad.check(&HostBatch::padded(1, 1, 1, LabelAlignment::Aligned)),
        ] {
            match refused.unwrap_err() {
                Error::Value { argument: found, .. } => assert_eq!(found, argument),
                other => panic!("not a value error: {other}"),
            }
        }
    }
    let most = i32::MAX as usize;
    let largest = Capacity { sequences: most, rows: most, pairs: most, vocab: most };
    assert!(largest.workspace_bytes().unwrap() > most && largest.index_entries() == 3 * most + 1);
}

/// A batch that is refused changes nothing of the one before.
#[test]
fn a_refused_batch_leaves_the_entries() {
    let mut entries = vec![7];
    let refused = pack_index_arrays(
        &HostBatch::packed(&[0, 3, 2, 4, 4], 4, 5, LabelAlignment::Aligned),
        INDICES,
        &mut entries,
    );
    assert!(matches!(refused, Err(Error::Index { argument: "cu_seqlens", position: 2, .. })), "{refused:?}");
    assert_eq!(entries, [7]);
    let mut padded = HostBatch::padded(4, 3, 50, LabelAlignment::Aligned);
    padded.ignore_index = -1;
    let on_device = pack_index_arrays(&padded, INDICES, &mut entries).unwrap();
    assert!(entries.is_empty() && on_device.ignore_index == -1);
}
