//! Plans are pure, so everything about them can be checked without a device: offsets, limits, alignment, overlaps.
#![cfg(feature = "cuda")]

#[path = "common/devices.rs"]
#[allow(dead_code)]
mod devices;

use devices::{A100, H200};
use dpo_kernels::cuda::kernel::Kernel;
use dpo_kernels::cuda::params::{
    DPO_FACTORED_THREADS, DPO_NORMALIZER_PAIRS, DPO_PAIRS_INDEXED, DPO_PAIRS_INTERLEAVED, DpoBackward,
    DpoForward, DpoPairLossAlone, DpoRowPartition, DpoSliceSum, DpoTokenMetricSums,
};
use dpo_kernels::cuda::plan::{
    self, Arguments, Device, DeviceArray, DeviceBatch, DevicePairInputs, EntropyBuffers, GradientBuffers,
    Inputs, Launch, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan, RowWindow, Step,
    TokenMetricBuffers,
};
use dpo_kernels::cuda::tuning::{
    FACTORED_STATIC_SHARED, FactoredPartition, MOST_DIVIDED_ROWS, RowPartition, RowPass, TABLE,
    most_slice_sums,
};
use dpo_kernels::{
    Batch, DType, Error, LabelAlignment, LabelType, MetricsLevel, PairLoss, Pairs, Sequences, Transform,
};

const INPUTS: Inputs = Inputs {
    dtype: DType::BF16,
    logits: 0x1000_0000,
    label_type: LabelType::I64,
    labels: 0x2000,
    window: None,
};
const OUT: LogpsBuffers = LogpsBuffers {
    logps: Some(0x3000),
    scored: None,
    token_logps: None,
    logsumexp: Some(0x4000),
    logsumexp_residual: Some(0x5000),
    token_weights: None,
    metrics: None,
    status: Some(0x6000),
};
const NO_METRICS: TokenMetricBuffers = TokenMetricBuffers {
    entropy: None,
    correct: None,
    mean_logit: None,
    sum_p2: None,
    sequence_log_weights: None,
    mean: None,
};
const PAIRS: PairOutputBuffers = PairOutputBuffers {
    pair_losses: Some(0x8000),
    chosen_rewards: Some(0x9000),
    rejected_rewards: Some(0xa000),
    margins: Some(0xb000),
    coef: Some(0xc000),
    metrics: Some(0xd000),
};
const WORKSPACE: u64 = 0xe000;

fn batch() -> DeviceBatch {
    Batch::padded(4, 8, 1000, LabelAlignment::Aligned)
}

fn loss() -> PairLoss {
    PairLoss::sigmoid(0.1f32).unwrap().without_reference()
}

/// A loss with nothing but its outputs.
fn arguments(loss: &PairLoss) -> PairLossArguments<'_> {
    PairLossArguments { loss, inputs: DevicePairInputs::NONE, out: &PAIRS }
}

/// The one step of a plan.
fn only(plan: Plan) -> Launch {
    let [Step::Launch(launch)] = plan.steps() else { panic!("not one launch: {plan:?}") };
    *launch
}

fn gradient(dlogits: u64) -> GradientBuffers {
    GradientBuffers {
        logsumexp: 0x4000,
        logsumexp_residual: None,
        coef: Some(0xc000),
        token_coef: None,
        entropy: None,
        upstream: None,
        upstream_scale: 1.0,
        threshold: 0.0,
        nonfinite_row: None,
        dlogits,
    }
}

fn forward_params(batch: &DeviceBatch) -> DpoForward {
    let plan = plan::forward(&A100, batch, &INPUTS, &OUT, Some(&arguments(&loss())), WORKSPACE);
    match only(plan.unwrap()).arguments {
        Arguments::Forward(params) => params,
        other => panic!("not a forward launch: {other:?}"),
    }
}

fn backward_params(batch: &DeviceBatch, dlogits: u64) -> DpoBackward {
    match only(plan::backward(&A100, batch, &INPUTS, &gradient(dlogits)).unwrap()).arguments {
        Arguments::Backward(params) => params,
        other => panic!("not a backward launch: {other:?}"),
    }
}

fn value_error(result: Result<Plan, Error>) -> (&'static str, String) {
    match result.unwrap_err() {
        Error::Value { argument, found, .. } => (argument, found),
        other => panic!("not a value error: {other}"),
    }
}

#[test]
fn forward_is_one_launch() {
    let plan = plan::forward(&A100, &batch(), &INPUTS, &OUT, Some(&arguments(&loss())), WORKSPACE);
    let launch = only(plan.unwrap());
    assert_eq!((launch.kernel.unit(), launch.kernel.to_string()), ("forward", "dpo_forward_bf16".into()));
    // 32 rows of 2000 bytes, eight to a block.
    assert_eq!((launch.grid, launch.block), (4, 256));
    assert_eq!(launch.arguments.as_bytes().len(), size_of::<DpoForward>());
    let params = forward_params(&batch());
    assert_eq!((params.batch.rows, params.batch.vocab, params.batch.sequence_len), (32, 1000, 8));
    assert_eq!((params.loss.pairs, params.loss.beta), (2, 0.1));
    // The kernel counts the pairs whose weight is not 0.
    assert_eq!(params.loss.normalizer_kind, DPO_NORMALIZER_PAIRS);
}

#[test]
fn every_kernel_is_planned_for() {
    let mut planned = Vec::new();
    let entropy = TokenMetricBuffers { entropy: Some(0xf000), ..NO_METRICS };
    let all = TokenMetricBuffers { mean: Some(0xf000), ..entropy };
    for dtype in DType::ALL {
        let inputs = Inputs { dtype, ..INPUTS };
        let transform = Transform { softcap: Some(30.0), ..Transform::default() };
        for batch in [batch(), Batch { transform, ..batch() }] {
            for metrics in [None, Some(entropy), Some(all)] {
                let out = LogpsBuffers { metrics, ..OUT };
                planned.push(plan::forward(&A100, &batch, &inputs, &out, None, WORKSPACE).unwrap());
            }
            for entropy in [None, Some(EntropyBuffers { coef: 0xa000, entropy: 0xb000 })] {
                let gradient = GradientBuffers { entropy, ..gradient(INPUTS.logits) };
                planned.push(plan::backward(&A100, &batch, &inputs, &gradient).unwrap());
            }
            planned
                .push(plan::factored(&A100, &batch, &inputs, &OUT, None, INPUTS.logits, WORKSPACE).unwrap());
        }
    }
    let loss = loss();
    planned.push(plan::pair_loss(&Pairs::Concatenated, 4, 0x3000, None, &arguments(&loss), 0x6000).unwrap());
    let mut planned: Vec<Kernel> = planned.into_iter().map(|plan| only(plan).kernel).collect();
    planned.sort_by_key(|kernel| kernel.index());
    // Those between the head's products have tests/lm_head_plan.rs.
    let passes = ["forward", "pair_loss", "backward", "factored"];
    let expected: Vec<Kernel> =
        Kernel::ALL.into_iter().filter(|kernel| passes.contains(&kernel.unit())).collect();
    assert_eq!(planned, expected);
}

/// What is off costs nothing: only a soft cap, or a metric, takes the kernels that have them.
#[test]
fn extras_take_their_own_kernels() {
    let (dtype, plain) = (DType::BF16, MetricsLevel::None);
    let forward = |batch: &DeviceBatch, out: &LogpsBuffers| {
        only(plan::forward(&A100, batch, &INPUTS, out, None, WORKSPACE).unwrap()).kernel
    };
    let backward = |batch: &DeviceBatch| {
        only(plan::backward(&A100, batch, &INPUTS, &gradient(INPUTS.logits)).unwrap()).kernel
    };
    let transformed = |transform| Batch { transform, ..batch() };
    let padded = transformed(Transform { scale: 0.5, softcap: None, valid_vocab: Some(900) });
    assert_eq!(forward(&padded, &OUT), Kernel::Forward { metrics: plain, softcap: false, dtype });
    assert_eq!(backward(&padded), Kernel::Backward { entropy: false, softcap: false, dtype });
    let params = forward_params(&padded).batch;
    assert_eq!((params.vocab, params.columns, params.scale, params.softcap), (1000, 900, 0.5, 0.0));
    let capped = transformed(Transform { scale: 0.5, softcap: Some(30.0), valid_vocab: None });
    assert_eq!(forward(&capped, &OUT), Kernel::Forward { metrics: plain, softcap: true, dtype });
    assert_eq!(backward(&capped), Kernel::Backward { entropy: false, softcap: true, dtype });
    let params = forward_params(&capped).batch;
    assert_eq!((params.columns, params.scale, params.softcap), (1000, 0.5, 30.0));
    let level = |metrics| match forward(&batch(), &LogpsBuffers { metrics: Some(metrics), ..OUT }) {
        Kernel::Forward { metrics, softcap: false, .. } => metrics,
        other => panic!("not a plain forward kernel: {other}"),
    };
    let entropy = TokenMetricBuffers { entropy: Some(0xf000), ..NO_METRICS };
    assert_eq!((level(NO_METRICS), level(entropy)), (plain, MetricsLevel::Entropy));
    for more in [
        TokenMetricBuffers { correct: Some(0xf000), ..NO_METRICS },
        TokenMetricBuffers { mean_logit: Some(0xf100), ..entropy },
        TokenMetricBuffers { sum_p2: Some(0xf100), ..entropy },
        TokenMetricBuffers { sequence_log_weights: Some(0xf100), ..entropy },
        TokenMetricBuffers { mean: Some(0xf100), ..entropy },
    ] {
        assert_eq!(level(more), MetricsLevel::All);
    }

    let weighted = Batch { ld_alpha: 0.25, pairs: Pairs::Interleaved, ..batch() };
    let out = LogpsBuffers { token_weights: Some(0xf000), ..OUT };
    assert_eq!(forward(&weighted, &out), Kernel::Forward { metrics: plain, softcap: false, dtype });
    let params = forward_params(&weighted);
    assert_eq!((params.ld_alpha, params.partner_layout), (0.25, DPO_PAIRS_INTERLEAVED));
}

/// What is summed over rows and not asked for goes by way of the workspace.
#[test]
fn metrics_of_the_batch_need_no_buffers_of_rows() {
    let params = |metrics| {
        let out = LogpsBuffers { logsumexp: None, metrics: Some(metrics), ..OUT };
        let plan = plan::forward(&A100, &batch(), &INPUTS, &out, None, WORKSPACE + 4);
        match only(plan.unwrap()).arguments {
            Arguments::Forward(params) => params,
            other => panic!("not a forward launch: {other:?}"),
        }
    };
    let bytes = plan::workspace_bytes(&batch()).unwrap() as u64;
    for metrics in [
        TokenMetricBuffers { mean: Some(0xf000), ..NO_METRICS },
        TokenMetricBuffers { sequence_log_weights: Some(0xf000), ..NO_METRICS },
    ] {
        let params = params(metrics);
        let m = params.metrics;
        let mut rows = [params.logsumexp, m.entropy, m.correct, m.mean_logit, m.sum_p2];
        rows.sort();
        assert!(rows[0] >= params.scored + 4 * 4 && rows[4] + 4 * 32 <= params.slice_sums);
        assert!(rows.windows(2).all(|pair| pair[1] - pair[0] >= 4 * 32), "{rows:?}");
        assert!(m.sums >= params.slice_sums && m.sums.is_multiple_of(8));
        assert!(m.sums + 4 * size_of::<DpoTokenMetricSums>() as u64 <= WORKSPACE + 4 + bytes);
        let asked = (metrics.mean.unwrap_or(0), metrics.sequence_log_weights.unwrap_or(0));
        assert_eq!((m.mean, m.sequence_log_weights), asked);
    }
    let own = params(TokenMetricBuffers { mean: Some(0xf000), sum_p2: Some(0xf100), ..NO_METRICS });
    assert_eq!(own.metrics.sum_p2, 0xf100);
    let m = params(TokenMetricBuffers { sum_p2: Some(0xf100), ..NO_METRICS }).metrics;
    assert_eq!((m.entropy, m.sum_p2, m.sums, m.mean), (0, 0xf100, 0, 0));
}

#[test]
fn extras_that_miss_something_are_refused() {
    let weighted = Batch { ld_alpha: 0.25, ..batch() };
    let refused = plan::backward(&A100, &weighted, &INPUTS, &gradient(INPUTS.logits)).unwrap_err();
    assert_eq!(refused.to_string(), "token_coef: required when ld_alpha is not 1");
    let threshold = GradientBuffers { threshold: f32::NAN, ..gradient(INPUTS.logits) };
    let refused = plan::backward(&A100, &batch(), &INPUTS, &threshold);
    assert_eq!(value_error(refused), ("threshold", "NaN".into()));
    let misaligned = GradientBuffers { nonfinite_row: Some(0xf001), ..gradient(INPUTS.logits) };
    let refused = plan::backward(&A100, &batch(), &INPUTS, &misaligned);
    assert_eq!(value_error(refused), ("nonfinite_row", "0xf001".into()));
}

#[test]
fn logps_alone_has_no_pairs() {
    let batch = Batch { pairs: Pairs::None, ..Batch::padded(3, 8, 1000, LabelAlignment::Aligned) };
    let launch = only(plan::forward(&A100, &batch, &INPUTS, &OUT, None, WORKSPACE).unwrap());
    let Arguments::Forward(params) = launch.arguments else { panic!("not a forward launch") };
    assert_eq!(params.loss.pairs, 0);
    let (argument, _) =
        value_error(plan::forward(&A100, &batch, &INPUTS, &OUT, Some(&arguments(&loss())), WORKSPACE));
    assert_eq!(argument, "pairs");
}

#[test]
fn parameters_that_f32_cannot_hold_are_refused() {
    let launch =
        |loss: &PairLoss| plan::forward(&A100, &batch(), &INPUTS, &OUT, Some(&arguments(loss)), WORKSPACE);
    assert_eq!(value_error(launch(&PairLoss::sigmoid(1e-60).unwrap().without_reference())).0, "beta");
    assert_eq!(value_error(launch(&loss().with_normalizer(1e60).unwrap())).0, "normalizer");
}

#[test]
fn offsets_pass_two_to_the_31() {
    // 65536 rows of 262144 + 64 elements: 1.7e10 elements, far past 2^31.
    let batch = Batch { row_stride: 262_208, ..Batch::padded(32, 2048, 262_144, LabelAlignment::Aligned) };
    let params = forward_params(&batch);
    assert_eq!(params.batch.row_stride, 262_208i64);
    assert_eq!(params.batch.rows, 65_536);
    assert_eq!(batch.logits_len(), 65_535 * 262_208 + 262_144);
    // A gradient buffer that overlaps only beyond 2^31 elements is found out.
    let bytes = batch.logits_len() as u64 * 2;
    let launch = plan::backward(&A100, &batch, &INPUTS, &gradient(INPUTS.logits + bytes - 2));
    assert_eq!(value_error(launch).0, "dlogits");
    assert_eq!(backward_params(&batch, INPUTS.logits + bytes).dlogits, INPUTS.logits + bytes);
}

#[test]
fn counts_beyond_the_grid_are_refused() {
    let rows = |count, len| {
        plan::forward(
            &A100,
            &Batch::padded(count, len, 10, LabelAlignment::Aligned),
            &INPUTS,
            &OUT,
            None,
            WORKSPACE,
        )
    };
    assert!(rows(2, (i32::MAX / 2) as usize).is_ok());
    assert_eq!(value_error(rows(2, 1 << 30)).0, "rows");
    assert_eq!(value_error(rows(2, usize::MAX)).0, "rows");
    assert_eq!(value_error(rows(0, 5)).0, "sequences");
    assert_eq!(value_error(rows(2, 0)).0, "rows");
    // A backward pass over a billion rows of 16 slices each takes more blocks than a grid has.
    let sliced = Batch::padded(2, 1 << 29, 262_144, LabelAlignment::Aligned);
    let backward = plan::backward(&A100, &sliced, &INPUTS, &gradient(INPUTS.logits));
    assert_eq!(value_error(backward).0, "rows");
    let vocab = |vocab| {
        plan::forward(
            &A100,
            &Batch::padded(2, 2, vocab, LabelAlignment::Aligned),
            &INPUTS,
            &OUT,
            None,
            WORKSPACE,
        )
    };
    assert_eq!(value_error(vocab(0)).0, "vocab");
    assert_eq!(value_error(vocab(1 << 31)).0, "vocab");
    assert!(vocab(i32::MAX as usize).is_ok());
    let wide = Batch { row_stride: usize::MAX / 8, ..Batch::padded(2, 1000, 10, LabelAlignment::Aligned) };
    assert_eq!(value_error(plan::forward(&A100, &wide, &INPUTS, &OUT, None, WORKSPACE)).0, "row_stride");
}

#[test]
fn a_reference_that_a_loss_compares_with_is_asked_for() {
    let loss = PairLoss::sigmoid(0.1).unwrap();
    let error =
        plan::forward(&A100, &batch(), &INPUTS, &OUT, Some(&arguments(&loss)), WORKSPACE).unwrap_err();
    assert!(matches!(error, Error::Missing { argument: "ref_logps", .. }), "{error}");
}

#[test]
fn arrays_of_a_wrong_length_are_named() {
    let beta = Some(DeviceArray { address: 0x7100, len: 3 });
    let loss = loss();
    let inputs = DevicePairInputs { beta, ..DevicePairInputs::NONE };
    let arguments = PairLossArguments { inputs, ..arguments(&loss) };
    assert_eq!(
        plan::forward(&A100, &batch(), &INPUTS, &OUT, Some(&arguments), WORKSPACE).unwrap_err(),
        Error::Length { argument: "beta", shape: "[pairs]", expected: 2, found: 3 }
    );
}

/// The kernels count mismatched completions in 32 bits; a count beyond them is none that is some other.
#[test]
fn mismatched_completions_are_counted_in_32_bits() {
    let loss = PairLoss::kto(0.1).unwrap();
    let plan = |len| {
        let array = |address| DeviceArray { address, len };
        let reference = DevicePairInputs::reference(DeviceArray { address: 0x7000, len: 4 });
        let kl_logps = Some(array(0x7100));
        let inputs = DevicePairInputs { kl_logps, kl_ref_logps: Some(array(0x7200)), ..reference };
        let arguments = PairLossArguments { inputs, ..arguments(&loss) };
        plan::forward(&A100, &batch(), &INPUTS, &OUT, Some(&arguments), WORKSPACE)
    };
    let most = u32::MAX as usize;
    assert!(plan(most).is_ok());
    assert_eq!(value_error(plan(most + 2)), ("kl_logps", "4294967297".to_string()));
}

#[test]
fn in_place_or_apart_but_never_overlapping() {
    let bytes = batch().logits_len() as u64 * 2;
    assert_eq!(backward_params(&batch(), INPUTS.logits).dlogits, INPUTS.logits);
    for apart in [INPUTS.logits + bytes, INPUTS.logits - bytes] {
        assert_eq!(backward_params(&batch(), apart).dlogits, apart);
    }
    for overlapping in [INPUTS.logits + 2, INPUTS.logits + bytes - 2, INPUTS.logits - bytes + 2] {
        let (argument, found) = value_error(plan::backward(&A100, &batch(), &INPUTS, &gradient(overlapping)));
        assert_eq!((argument, found), ("dlogits", format!("{overlapping:#x}")));
    }
}

#[test]
fn null_and_misaligned_addresses_are_named() {
    struct Given {
        inputs: Inputs,
        out: LogpsBuffers,
        pair_inputs: DevicePairInputs,
        pairs: PairOutputBuffers,
        workspace: u64,
    }
    type Change = fn(&mut Given);
    let changes: [(&str, Change); 20] = [
        ("logits", |given| given.inputs.logits = 0),
        ("logits", |given| given.inputs.logits = 0x1001),
        ("labels", |given| given.inputs.labels = 0),
        ("labels", |given| given.inputs.labels = 0x2004),
        ("logps", |given| given.out.logps = None),
        ("logps", |given| given.out.logps = Some(0)),
        ("scored", |given| given.out.scored = Some(0)),
        ("token_logps", |given| given.out.token_logps = Some(2)),
        ("logsumexp", |given| given.out.logsumexp = Some(2)),
        ("logsumexp_residual", |given| given.out.logsumexp_residual = Some(0)),
        ("status", |given| given.out.status = None),
        ("sum_p2", |given| given.out.metrics = Some(TokenMetricBuffers { sum_p2: Some(2), ..NO_METRICS })),
        ("ref_logps", |given| given.pair_inputs.ref_logps = Some(DeviceArray { address: 0, len: 4 })),
        ("weight", |given| given.pair_inputs.weight = Some(DeviceArray { address: 0x7002, len: 2 })),
        ("normalizer", |given| given.pair_inputs.normalizer = Some(0)),
        ("pair_losses", |given| given.pairs.pair_losses = None),
        ("margins", |given| given.pairs.margins = Some(1)),
        ("coef", |given| given.pairs.coef = None),
        ("metrics", |given| given.pairs.metrics = None),
        ("workspace", |given| given.workspace = 0),
    ];
    for (name, change) in changes {
        let mut given = Given {
            inputs: INPUTS,
            out: OUT,
            pair_inputs: DevicePairInputs::reference(DeviceArray { address: 0x7000, len: 4 }),
            pairs: PAIRS,
            workspace: WORKSPACE,
        };
        change(&mut given);
        let Given { inputs, out, pair_inputs, pairs, workspace } = given;
        let loss = PairLoss::sigmoid(0.1).unwrap();
        let arguments = PairLossArguments { loss: &loss, inputs: pair_inputs, out: &pairs };
        let plan = plan::forward(&A100, &batch(), &inputs, &out, Some(&arguments), workspace);
        assert_eq!(value_error(plan).0, name);
    }
    let packed = Batch::packed(DeviceArray { address: 0, len: 5 }, 32, 1000, LabelAlignment::Aligned);
    assert_eq!(value_error(plan::forward(&A100, &packed, &INPUTS, &OUT, None, WORKSPACE)).0, "cu_seqlens");
}

#[test]
fn layouts_reach_the_kernels() {
    let interleaved = DeviceBatch { pairs: Pairs::Interleaved, ..batch() };
    assert_eq!(forward_params(&interleaved).loss.pair_layout, DPO_PAIRS_INTERLEAVED);
    let (chosen, rejected) = (DeviceArray { address: 0x10, len: 3 }, DeviceArray { address: 0x20, len: 3 });
    let indexed = DeviceBatch { pairs: Pairs::Indexed { chosen, rejected }, ..batch() };
    let params = forward_params(&indexed).loss;
    assert_eq!((params.pair_layout, params.pairs), (DPO_PAIRS_INDEXED, 3));
    assert_eq!((params.chosen, params.rejected), (0x10, 0x20));
    let next = DeviceBatch { label_alignment: LabelAlignment::NextToken, ..batch() };
    assert_eq!((forward_params(&batch()).batch.next_token, forward_params(&next).batch.next_token), (0, 1));
    let packed = DeviceBatch {
        sequences: Sequences::Packed { cu_seqlens: DeviceArray { address: 0x30, len: 5 }, rows: 17 },
        ..batch()
    };
    let params = forward_params(&packed).batch;
    assert_eq!((params.cu_seqlens, params.sequences, params.rows), (0x30, 4, 17));
    let uneven = DeviceArray { address: 0x20, len: 2 };
    let broken = DeviceBatch { pairs: Pairs::Indexed { chosen, rejected: uneven }, ..batch() };
    assert_eq!(
        plan::forward(&A100, &broken, &INPUTS, &OUT, None, WORKSPACE).unwrap_err(),
        Error::Length { argument: "rejected", shape: "[pairs]", expected: 3, found: 2 }
    );
}

#[test]
fn workspace_parts_do_not_overlap() {
    let params = forward_params(&batch());
    let bytes = plan::workspace_bytes(&batch()).unwrap() as u64;
    // progress | sequence_rows_done [4] | row_slices_done [32] | token_logps [32] | scored [4] | slice_sums
    assert_eq!(params.progress, WORKSPACE);
    assert!(params.sequence_rows_done >= WORKSPACE + 24);
    assert!(params.row_slices_done >= params.sequence_rows_done + 4 * 4);
    assert!(params.token_logps >= params.row_slices_done + 32 * 4);
    assert!(params.scored >= params.token_logps + 32 * 4);
    assert!(params.slice_sums >= params.scored + 4 * 4);
    assert!(params.slice_sums <= WORKSPACE + bytes);
}

#[test]
fn workspace_has_room_for_the_slices_of_every_device_and_dtype() {
    for vocab in [1, 16_384, 16_385, 32_769, 128_256, 262_144, i32::MAX as usize] {
        let batch = Batch::padded(2, 3, vocab, LabelAlignment::Aligned);
        let bytes = plan::workspace_bytes(&batch).unwrap() as u64;
        let mut fullest = 0;
        for device in devices::ALL {
            for dtype in DType::ALL {
                let inputs = Inputs { dtype, ..INPUTS };
                let launch = only(plan::forward(&device, &batch, &inputs, &OUT, None, WORKSPACE).unwrap());
                let Arguments::Forward(params) = launch.arguments else { panic!("not a forward launch") };
                // Each of the eight warps of a block leaves a sum of each slice.
                let sums = match u64::from(params.partition.blocks_per_row) {
                    1 => 0,
                    _ => 6 * 8 * u64::from(params.partition.slices) * size_of::<DpoSliceSum>() as u64,
                };
                fullest = fullest.max(params.slice_sums + sums - WORKSPACE);
            }
        }
        // Behind them, the sums of two sequences.
        assert_eq!(fullest + 4 + 2 * size_of::<DpoTokenMetricSums>() as u64, bytes, "vocab {vocab}");
    }
}

/// Slices that cover the row, in a cluster that the device has, and shared memory that it has: for two blocks on a
/// multiprocessor, unless L2 could not hold what two would read again of a row in the largest cluster.
#[test]
fn the_factored_forward_cuts_rows_to_what_a_multiprocessor_holds() {
    for (device, dtype) in devices::ALL.iter().flat_map(|device| DType::ALL.map(|dtype| (device, dtype))) {
        for vocab in [1, 8, 1000, 4096, 32_000, 50_257, 128_256, 262_144, 1 << 20, i32::MAX as usize] {
            let partition = FactoredPartition::of(device, dtype, vocab);
            let RowPartition { threads, params } = partition.rows;
            let vectors = (vocab * dtype.size()).div_ceil(16);
            let (slices, slice) = (params.blocks_per_row, params.slice_vectors);
            assert_eq!(params.rows_per_block, 1);
            assert!(slices.is_power_of_two() && slices <= device.cluster_blocks);
            assert!(slices as usize * slice as usize >= vectors, "{vocab} {params:?}");
            assert!(threads.is_multiple_of(32) && threads <= DPO_FACTORED_THREADS);
            let (kept, bytes) = (partition.kept_vectors, partition.shared_bytes() + FACTORED_STATIC_SHARED);
            assert!(kept == slice || kept >= 2 && kept < slice, "{vocab} {partition:?}");
            assert!(bytes <= device.shared_bytes_per_block, "{vocab} {partition:?}");
            let two_fit = 2 * (bytes + 1024) <= device.shared_bytes_per_block + 1024;
            assert!(two_fit || slices == device.cluster_blocks, "{vocab} {partition:?}");

            let batch = Batch { pairs: Pairs::None, ..Batch::padded(1, 5, vocab, LabelAlignment::Aligned) };
            let inputs = Inputs { dtype, ..INPUTS };
            let plan = plan::factored(device, &batch, &inputs, &OUT, None, INPUTS.logits, WORKSPACE);
            let launch = only(plan.unwrap());
            assert_eq!((launch.grid, launch.cluster, launch.block), (5 * slices, slices, threads));
            assert_eq!(launch.shared_bytes, partition.shared_bytes());
        }
    }
    // A row of the largest common vocabulary stays on chip where there are clusters, and on an A100 half of it.
    let of = |device, vocab| FactoredPartition::of(device, DType::BF16, vocab);
    let (kept, whole) = (of(&H200, 128_256), of(&A100, 128_256));
    assert_eq!(kept.kept_vectors, kept.rows.params.slice_vectors);
    assert!(whole.rows.params.blocks_per_row == 1 && whole.kept_vectors < 16_032);
}

#[test]
fn a_factored_gradient_is_the_logits_or_apart_from_them() {
    let at = |gradient| plan::factored(&H200, &batch(), &INPUTS, &OUT, None, gradient, WORKSPACE);
    let bytes = (batch().logits_len() * INPUTS.dtype.size()) as u64;
    assert!(at(INPUTS.logits).is_ok() && at(INPUTS.logits + bytes).is_ok());
    assert_eq!(value_error(at(INPUTS.logits + bytes - 16)).0, "gradient");
    assert_eq!(value_error(at(0)).0, "gradient");
    assert_eq!(value_error(at(INPUTS.logits + 1)).0, "gradient");
}

/// Every row is divided among blocks exactly once, whatever the number of rows, and that number changes nothing but the grid.
#[test]
fn rows_are_divided_alike_in_every_batch() {
    for (pass, device) in
        [RowPass::Forward, RowPass::Backward].into_iter().flat_map(|k| devices::ALL.map(|d| (k, d)))
    {
        for dtype in DType::ALL {
            for vocab in
                [1, 31, 1000, 4096, 8193, 16_385, 32_000, 50_257, 128_256, 262_144, i32::MAX as usize]
            {
                let RowPartition { threads, params } = RowPartition::of(pass, dtype, vocab);
                let vectors = (vocab * dtype.size()).div_ceil(16) as u64;
                let (slices, slice) = (u64::from(params.slices), u64::from(params.slice_vectors));
                assert_eq!((params.blocks_per_row, params.slices_per_block), (params.slices, 1));
                assert!((slices - 1) * slice < vectors && vectors <= slices * slice, "{vocab} {params:?}");
                assert!(params.rows_per_block == 1 || params.blocks_per_row == 1, "{vocab} {params:?}");
                assert!(
                    (threads / params.rows_per_block).is_multiple_of(32)
                        && threads.is_multiple_of(params.rows_per_block)
                );
                assert_eq!(slice % u64::from(threads / params.rows_per_block), 0);
                for rows in [1, 7, 8, 9, 64, 4096] {
                    let batch = Batch {
                        pairs: Pairs::None,
                        ..Batch::padded(1, rows, vocab, LabelAlignment::Aligned)
                    };
                    let inputs = Inputs { dtype, ..INPUTS };
                    let launch = match pass {
                        RowPass::Forward => plan::forward(&device, &batch, &inputs, &OUT, None, WORKSPACE),
                        RowPass::Backward => {
                            plan::backward(&device, &batch, &inputs, &gradient(INPUTS.logits))
                        }
                    };
                    let launch = only(launch.unwrap());
                    let found = match launch.arguments {
                        Arguments::Forward(params) => params.partition,
                        Arguments::Backward(params) => params.partition,
                        other => panic!("not a pass over rows: {other:?}"),
                    };
                    // The same slices, however many blocks they go to: all of them to some block, and none twice.
                    let (blocks, each) = (found.blocks_per_row, found.slices_per_block);
                    let as_found =
                        DpoRowPartition { blocks_per_row: blocks, slices_per_block: each, ..params };
                    assert_eq!((found, launch.block), (as_found, threads));
                    assert!((blocks - 1) * each < found.slices && found.slices <= blocks * each);
                    assert!(pass == RowPass::Forward || found == params);
                    let blocks = (rows as u64).div_ceil(u64::from(params.rows_per_block)) * u64::from(blocks);
                    assert_eq!(u64::from(launch.grid), blocks);
                }
            }
        }
    }
}

#[test]
fn few_long_rows_and_many_short_ones_fill_the_chip() {
    let forward = |rows, vocab| RowPartition::of(RowPass::Forward, DType::BF16, vocab).for_rows(rows, &H200);
    let blocks = |rows, vocab| forward(rows, vocab).blocks(rows);
    // 64 long rows are cut as far as they may be, which is more than a block for each multiprocessor; 8192 are left whole,
    // and of 1000 each goes to as few blocks as occupy the device four times over.
    assert!(blocks(64, 128_256) == 4 * 64 && blocks(64, 128_256) > u64::from(H200.multiprocessors));
    assert!(blocks(8192, 128_256) == 8192 && blocks(8192, 262_144) == 8192);
    assert!(blocks(1000, 262_144) == 3 * 1000 && 3 * 1000 > 4 * 4 * H200.multiprocessors);
    // Three blocks for eight slices: three, three and two.
    assert_eq!(forward(1000, 262_144).params.slices_per_block, 3);
    // Short rows are eight to a block.
    assert!(blocks(4096, 1000) == 512 && blocks(4096, 4096) == 512);
    assert_eq!(most_slice_sums(16_384), 0);
    // No device divides more rows than a workspace has room for.
    let vast = Device { multiprocessors: u32::MAX, ..H200 };
    let long = RowPartition::of(RowPass::Forward, DType::F32, 1 << 20);
    let divided = |rows| long.for_rows(rows, &vast).params.blocks_per_row > 1;
    assert!(divided(MOST_DIVIDED_ROWS) && !divided(MOST_DIVIDED_ROWS + 1));
}

#[test]
fn every_entry_of_the_tuning_table_is_of_use() {
    let chosen = |entry: &dpo_kernels::cuda::tuning::Entry| {
        let bytes = entry.row_bytes.min(1 << 20);
        let first = TABLE.iter().find(|other| other.pass == entry.pass && bytes <= other.row_bytes);
        let divided = RowPartition::of(entry.pass, DType::BF16, bytes / 2);
        first == Some(entry) && divided.params.rows_per_block == entry.rows_per_block
    };
    for entry in &TABLE {
        assert!(chosen(entry), "{entry:?}");
    }
}

#[test]
fn pair_loss_alone_needs_lengths_for_length_normalisation() {
    let plan = |scored| {
        let loss = loss().with_length_normalization();
        plan::pair_loss(&Pairs::Concatenated, 4, 0x3000, scored, &arguments(&loss), 0x6000)
    };
    assert_eq!(
        plan(None).unwrap_err(),
        Error::Missing { argument: "lengths", because: "the loss is length-normalised" }
    );
    let launch = only(plan(Some(0x40)).unwrap());
    assert_eq!(launch.grid, 1);
    assert_eq!(launch.arguments.as_bytes().len(), size_of::<DpoPairLossAlone>());
    let odd = plan::pair_loss(&Pairs::Concatenated, 3, 0x3000, None, &arguments(&loss()), 0x6000);
    assert_eq!(value_error(odd).0, "sequences");
}

/// Rows keep their indices in the batch, and the addresses are those of the window's rows.
#[test]
fn a_window_is_planned_for_its_rows_alone() {
    let window = RowWindow { first: 9, end: 26 };
    let inputs = Inputs { window: Some(window), ..INPUTS };
    let offset = 9 * 1000 * 2;
    let launch = only(plan::forward(&A100, &batch(), &inputs, &OUT, None, WORKSPACE).unwrap());
    let Arguments::Forward(params) = launch.arguments else { panic!("not a forward launch: {launch:?}") };
    // 17 rows, eight to a block.
    assert_eq!(launch.grid, 3);
    assert_eq!((params.batch.rows, params.batch.first_row, params.batch.end_row), (32, 9, 26));
    assert_eq!(params.logits + offset, INPUTS.logits);
    let launch = only(plan::backward(&A100, &batch(), &inputs, &gradient(INPUTS.logits)).unwrap());
    let Arguments::Backward(params) = launch.arguments else { panic!("not a backward launch: {launch:?}") };
    assert_eq!((launch.grid, params.logits + offset, params.dlogits), (3, INPUTS.logits, params.logits));
    // The buffers of 17 rows, not of 32, must lie apart.
    let bytes = 17 * 1000 * 2;
    let apart = |distance| {
        let gradient = gradient(INPUTS.logits + distance);
        plan::backward(&A100, &batch(), &inputs, &gradient)
    };
    assert!(apart(bytes).is_ok());
    assert_eq!(value_error(apart(bytes - 2)).0, "dlogits");
    let factored = |gradient| plan::factored(&A100, &batch(), &inputs, &OUT, None, gradient, WORKSPACE);
    assert_eq!(only(factored(INPUTS.logits + bytes).unwrap()).grid, 17);
    assert_eq!(value_error(factored(INPUTS.logits + bytes - 2)).0, "gradient");
}

/// A window that begins later in the batch than its logits do in memory has an address of row 0 below 0, which wraps.
#[test]
fn a_late_window_of_a_low_address_is_planned() {
    let inputs = Inputs { logits: 0x100, window: Some(RowWindow { first: 31, end: 32 }), ..INPUTS };
    let launch = only(plan::forward(&A100, &batch(), &inputs, &OUT, None, WORKSPACE).unwrap());
    let Arguments::Forward(params) = launch.arguments else { panic!("not a forward launch: {launch:?}") };
    assert_eq!(params.logits.wrapping_add(31 * 1000 * 2), 0x100);
}

#[test]
fn windows_without_rows_or_beyond_the_batch_are_refused() {
    for (first, end) in [(0, 0), (5, 5), (6, 5), (0, 33), (32, 33)] {
        let inputs = Inputs { window: Some(RowWindow { first, end }), ..INPUTS };
        let found = format!("rows {first}..{end}");
        let refused = [
            plan::forward(&A100, &batch(), &inputs, &OUT, None, WORKSPACE),
            plan::factored(&A100, &batch(), &inputs, &OUT, None, INPUTS.logits, WORKSPACE),
            plan::backward(&A100, &batch(), &inputs, &gradient(INPUTS.logits)),
        ];
        for refused in refused {
            assert_eq!(value_error(refused), ("window", found.clone()));
        }
    }
}

#[test]
fn windows_hold_each_row_once() {
    for (rows, most) in [(1, 1), (7, 3), (6, 3), (5, 100), (4, 0), (3, usize::MAX)] {
        let held: Vec<usize> =
            RowWindow::each(rows, most).flat_map(|window| window.first..window.end).collect();
        assert_eq!(held, (0..rows).collect::<Vec<_>>());
        assert!(RowWindow::each(rows, most).all(|window| window.end - window.first <= most.max(1)));
    }
}
