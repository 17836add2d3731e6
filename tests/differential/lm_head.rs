//! The head on a device: every way, dtype, layout and family of losses against the reference, and what only happens where hidden
//! states, labels or coefficients are out of the ordinary.

use std::collections::BTreeMap;

use dpo_kernels::cuda::params::{DPO_NO_TROUBLE, DpoProgress};
use dpo_kernels::cuda::plan::{
    self, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, EntropyBuffers, ForwardBuffers,
    LmHeadMemory, LmHeadRows, LmHeadWorkspace, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan,
};
use dpo_kernels::{
    DType, Forward, HostBatch, IGNORE_INDEX, LabelAlignment, LmHeadPlan, Logit, PairInputs, PairLoss, Pairs,
    Transform, WantedGradients,
};

use crate::executor::{Device, OnDevice, bytes_of};
use crate::head_case::{
    Case, Expected, ExpectedGradients, Found, HIDDEN, REF_LOGPS, START, UPSTREAM, VOCAB, cases, mixed, typed,
};
use crate::random::Random;
use crate::tolerance::precision::KERNELS;

/// What is done of a case, and how.
#[derive(Clone, Copy)]
struct How {
    frozen: bool,
    /// Rows of a chunk at most.
    chunk_rows: usize,
    /// Bytes by which hidden states, and their gradient, start past a 16-byte boundary.
    phase: usize,
    /// All of it in the call with the loss; or in one for log-probs and one for gradients.
    in_one: bool,
    /// Whether token metrics are asked for.
    metrics: bool,
    /// Whether dX is left out.
    weight_alone: bool,
    /// Whether logits are f32 whatever the hidden states are.
    wide_logits: bool,
}

impl How {
    fn new(frozen: bool, chunk_rows: usize) -> Self {
        How {
            frozen,
            chunk_rows,
            phase: 0,
            in_one: true,
            metrics: false,
            weight_alone: false,
            wide_logits: false,
        }
    }
}

impl How {
    fn logits_dtype<T: Logit>(&self) -> DType {
        if self.wide_logits { DType::F32 } else { T::DTYPE }
    }
}

/// A case on the device.
struct Placed {
    rows: LmHeadRows,
    entries: u64,
    head: DeviceLmHead,
    gradients: DeviceLmHeadGradients,
    workspace: LmHeadWorkspace,
    out: ForwardBuffers,
}

fn place<T: Logit>(executor: &mut OnDevice<impl Device>, case: &Case<'_>, how: How) -> Placed {
    let rows = LmHeadRows::new(&case.batch, case.labels[..].into()).unwrap();
    let mut out = executor.reserve_results(case.batch.extent());
    if !how.metrics {
        out.logps.metrics = None;
    }
    let columns = case.batch.columns();
    let memory = LmHeadMemory {
        logits_dtype: how.logits_dtype::<T>(),
        product_bytes: 0,
        ..LmHeadMemory::new(rows.capacity(), T::DTYPE, HIDDEN)
    };
    let memory = LmHeadMemory { budget_bytes: how.chunk_rows * memory.bytes_per_row(columns), ..memory };
    // As an earlier pass might have left it: counters at zero, and anything behind them.
    let mut left = vec![0; memory.workspace_bytes().unwrap()];
    left[counters(&rows)..].fill(0xff);
    let device = &mut executor.0;
    let aligned = device.upload(&vec![0; left.len() + 256], 0).next_multiple_of(256);
    device.write(aligned, &left);
    let mut upload = |values: &[f32]| device.upload(bytes_of(&typed::<T>(values)), how.phase);
    let (hidden, weight) = (upload(&case.hidden), upload(&case.weight));
    let dhidden = upload(&vec![9.0; case.hidden.len()]);
    let bias = case.bias.as_deref().map(|bias| device.upload(bytes_of(&typed::<T>(bias)), 0));
    let mut sums = |count| device.upload(bytes_of(&vec![START; count]), 0);
    let (dweight, dbias) = (sums(case.weight.len()), sums(VOCAB));
    Placed {
        entries: device.upload(bytes_of(rows.entries()), 0),
        rows,
        head: DeviceLmHead { dtype: T::DTYPE, hidden_size: HIDDEN, hidden, weight, bias },
        gradients: DeviceLmHeadGradients {
            hidden: (!how.weight_alone).then_some(dhidden),
            weight: (!how.frozen).then_some(dweight),
            bias: (!how.frozen).then_some(dbias),
            // Half of it comes from the device.
            upstream: Some(device.upload(bytes_of(&[2.0f32]), 0)),
            upstream_scale: UPSTREAM / 2.0,
            nonfinite_row: Some(device.upload(bytes_of(&[DPO_NO_TROUBLE]), 0)),
        },
        workspace: LmHeadWorkspace { address: aligned, memory },
        out,
    }
}

/// Bytes that are zero between passes.
fn counters(rows: &LmHeadRows) -> usize {
    size_of::<DpoProgress>() + 4 * (rows.capacity().sequences + rows.capacity().rows)
}

/// The plan of a case that is on the device, or of its log-probs alone.
fn plan_of(
    device: &plan::Device,
    placed: &Placed,
    logps: &LogpsBuffers,
    loss: Option<&PairLossArguments<'_>>,
    gradients: &DeviceLmHeadGradients,
) -> Plan {
    let Placed { rows, entries, head, workspace, .. } = placed;
    plan::lm_head(device, rows, *entries, VOCAB, head, logps, loss, gradients, workspace).unwrap()
}

fn run<T: Logit>(executor: &mut OnDevice<impl Device>, case: &Case<'_>, how: How) -> Found {
    let placed = place::<T>(executor, case, how);
    let (device, extent) = (executor.0.properties(), case.batch.extent());
    let inputs = executor.pair_inputs(&case.inputs);
    let loss = PairLossArguments { loss: &case.loss, inputs, out: &placed.out.pairs };
    let (out, gradients) = (&placed.out, &placed.gradients);
    if how.in_one {
        executor.0.run(plan_of(&device, &placed, &out.logps, Some(&loss), gradients));
    } else {
        let nothing = DeviceLmHeadGradients::default();
        executor.0.run(plan_of(&device, &placed, &out.logps, None, &nothing));
        let (logps, scored) = (out.logps.logps.unwrap(), out.logps.scored);
        let status = executor.0.reserve(64);
        let sequences = extent.sequences;
        let pairs = case.batch.pairs.try_map_indices(|array| {
            let address = executor.0.upload(bytes_of(array), 0);
            Ok(plan::DeviceArray { address, len: array.len() })
        });
        let pairs = pairs.unwrap();
        executor.0.run(plan::pair_loss(&pairs, sequences, logps, scored, &loss, status).unwrap());
        let coef = DeviceLmHeadCoef {
            logsumexp: out.logps.logsumexp.unwrap(),
            logsumexp_residual: out.logps.logsumexp_residual,
            coef: out.pairs.coef,
            token_coef: out.logps.token_weights,
            entropy: None,
            threshold: 0.0,
        };
        executor.0.run(backward_of(&device, &placed, &coef));
    }
    collect::<T>(executor, case, &placed)
}

fn backward_of(device: &plan::Device, placed: &Placed, coef: &DeviceLmHeadCoef) -> Plan {
    let Placed { rows, entries, head, gradients, workspace, .. } = placed;
    plan::lm_head_backward(device, rows, *entries, VOCAB, head, coef, gradients, workspace).unwrap()
}

/// The gradients of coefficients that come from elsewhere, of log-probs and of entropies, after a pass for both.
fn run_with_entropies<T: Logit>(
    executor: &mut OnDevice<impl Device>,
    case: &Case<'_>,
    [sequences, entropies]: [&[f32]; 2],
    how: How,
) -> Found {
    let mut placed = place::<T>(executor, case, How { metrics: true, ..how });
    placed.out.pairs = PairOutputBuffers::default();
    let (device, out) = (executor.0.properties(), &placed.out.logps);
    executor.0.run(plan_of(&device, &placed, out, None, &DeviceLmHeadGradients::default()));
    let mut upload = |values: &[f32]| executor.0.upload(bytes_of(values), 0);
    let entropy = out.metrics.and_then(|metrics| metrics.entropy).unwrap();
    let coef = DeviceLmHeadCoef {
        logsumexp: out.logsumexp.unwrap(),
        logsumexp_residual: out.logsumexp_residual,
        coef: Some(upload(sequences)),
        token_coef: out.token_weights,
        entropy: Some(EntropyBuffers { coef: upload(entropies), entropy }),
        threshold: 0.0,
    };
    executor.0.run(backward_of(&device, &placed, &coef));
    collect::<T>(executor, case, &placed)
}

/// What a case's passes have left, and that their counters are zero again.
fn collect<T: Logit>(executor: &mut OnDevice<impl Device>, case: &Case<'_>, placed: &Placed) -> Found {
    let Placed { out, gradients, .. } = placed;
    let counted = executor.0.download(placed.workspace.address, counters(&placed.rows));
    assert!(counted.iter().all(|&byte| byte == 0), "{}: counters", case.name);
    let out: Forward = executor.fetch_results(out, case.batch.extent());
    let hidden: Vec<T> =
        gradients.hidden.map(|hidden| executor.fetch(hidden, case.hidden.len())).unwrap_or_default();
    let mut sums = |address: Option<u64>, count| match address {
        Some(address) => executor.fetch(address, count),
        None => vec![START; count],
    };
    let (weight, bias) = (sums(gradients.weight, case.weight.len()), sums(gradients.bias, VOCAB));
    let [nonfinite]: [u32; 1] = executor.fetch(gradients.nonfinite_row.unwrap(), 1).try_into().unwrap();
    executor.0.clear();
    Found {
        out,
        nonfinite_row: (nonfinite != DPO_NO_TROUBLE).then_some(nonfinite as usize),
        hidden: hidden.iter().map(|value| value.to_f32()).collect(),
        weight,
        bias,
    }
}

/// Everything, in one dtype.
pub fn on_device<T: Logit>(executor: &mut OnDevice<impl Device>) {
    every_way::<T>(executor);
    a_loss_of_ones_own::<T>(executor);
    nans_are_named_where_they_count::<T>(executor);
    bad_labels_are_named::<T>(executor);
    nothing_scored_moves_nothing::<T>(executor);
    coefficients_of_0_move_nothing::<T>(executor);
    metrics_change_nothing_else::<T>(executor);
    entropies_have_gradients::<T>(executor);
    entropies_that_are_not_finite_are_named::<T>(executor);
    if T::DTYPE != DType::F32 {
        logits_are_f32_by_choice::<T>(executor);
    }
}

/// Chunks of less than a pair, of a pair and of everything, and in f32 of one row; frozen and not.
fn every_way<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let mut ways = BTreeMap::new();
    for (index, mut case) in cases().into_iter().enumerate() {
        let expected = Expected::of(&case, &KERNELS, T::DTYPE, T::DTYPE);
        // Hidden states of rows that are not scored are not read.
        for row in 0..case.batch.rows() {
            if case.labels_of(row).is_none() {
                case.hidden[row * HIDDEN..][..HIDDEN].fill(f32::NAN);
            }
        }
        let chunks =
            if T::DTYPE == DType::F32 { vec![1, 7, 29, case.scored()] } else { vec![13, case.scored()] };
        for frozen in [false, true] {
            for &chunk_rows in &chunks {
                let wanted = WantedGradients { hidden: true, weight: !frozen, bias: !frozen };
                let labels = case.labels[..].into();
                let plan = LmHeadPlan::new(&case.batch, labels, Some(&case.loss), wanted, 1, chunk_rows);
                for chunk in plan.unwrap().chunks() {
                    *ways.entry(format!("{:?}", chunk.way)).or_insert(0) += 1;
                }
                let phase = if index % 3 == 1 { size_of::<T>() } else { 0 };
                let how = How { phase, ..How::new(frozen, chunk_rows) };
                let found = run::<T>(executor, &case, how);
                expected.check(&case, T::DTYPE, frozen, &found);
                rows_without_labels_hold_0(&case, &found);
            }
        }
    }
    let ways: Vec<&str> = ways.keys().map(String::as_str).collect();
    assert_eq!(ways, ["FrozenWeight", "TwoSweeps", "WholePairs"]);
}

fn rows_without_labels_hold_0(case: &Case<'_>, found: &Found) {
    let logps = &found.out.logps;
    let arrays = [&logps.token_logps, &logps.logsumexp, &logps.logsumexp_residual, &logps.token_weights];
    for row in (0..case.batch.rows()).filter(|&row| case.labels_of(row).is_none()) {
        assert!(arrays.iter().all(|array| array[row].to_bits() == 0), "{}: row {row}", case.name);
    }
}

/// Log-probs, a loss and gradients in three calls, which make the logits twice.
fn a_loss_of_ones_own<T: Logit>(executor: &mut OnDevice<impl Device>) {
    for case in cases().iter().filter(|case| ["LD-DPO", "soft cap, padded vocabulary"].contains(&&*case.name))
    {
        let expected = Expected::of(case, &KERNELS, T::DTYPE, T::DTYPE);
        let found = run::<T>(executor, case, How { in_one: false, ..How::new(false, 11) });
        expected.check(case, T::DTYPE, false, &found);
    }
}

fn sigmoid() -> PairLoss {
    PairLoss::sigmoid(0.3).unwrap()
}

/// A NaN in a hidden state is a NaN in its pair's loss and in the gradients, and the places are named; where the row is not
/// scored, or its pair has weight 0, it is nowhere.
fn nans_are_named_where_they_count<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let weights = [1.0, 0.0, 1.0];
    let inputs = PairInputs { weight: Some(&weights), ..PairInputs::reference(&REF_LOGPS) };
    let batch = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    let all_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    // Past a boundary, elements are moved one by one.
    let past = How { phase: size_of::<T>(), ..How::new(true, 100) };
    for how in [How::new(false, 3), How::new(false, 100), past, How::new(true, 100)] {
        let mut with_nan = |row: usize| {
            let mut case = Case::new("NaN", batch, sigmoid(), inputs, true);
            case.hidden[row * HIDDEN + 2] = f32::NAN;
            assert!(case.labels_of(row).is_some());
            run::<T>(executor, &case, how)
        };
        // Sequence 1, the chosen one of the pair of weight 0: its log-prob alone tells.
        let outside = with_nan(9);
        assert!(outside.out.pairs.metrics.loss.is_finite());
        assert_eq!((outside.out.logps.status.nonfinite_row, outside.nonfinite_row), (Some(9), None));
        assert!(all_finite(&outside.hidden) && all_finite(&outside.weight) && all_finite(&outside.bias));

        let found = with_nan(2);
        assert!(found.out.pairs.metrics.loss.is_nan());
        assert_eq!((found.out.logps.status.nonfinite_row, found.nonfinite_row), (Some(2), Some(1)));
        assert!(found.hidden[2 * HIDDEN..3 * HIDDEN].iter().all(|value| value.is_nan()));
        // Another pair's rows are as they were.
        assert!(all_finite(&found.hidden[16 * HIDDEN..24 * HIDDEN]));
        assert!(how.frozen || found.weight.iter().chain(&found.bias).all(|value| value.is_nan()));
    }
    // Where dX is not wanted, c and logsumexp tell.
    let mut case = Case::new("NaN", batch, sigmoid(), inputs, true);
    case.hidden[2 * HIDDEN + 2] = f32::NAN;
    for chunk_rows in [3, 100] {
        let found = run::<T>(executor, &case, How { weight_alone: true, ..How::new(false, chunk_rows) });
        assert_eq!((found.out.logps.status.nonfinite_row, found.nonfinite_row), (Some(2), Some(1)));
        assert!(found.weight.iter().chain(&found.bias).all(|value| value.is_nan()));
    }
}

/// A label outside of the vocabulary is a NaN in its row, even where the pair counts for nothing.
fn bad_labels_are_named<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let batch = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    let weights = [1.0, 0.0, 1.0];
    let inputs = PairInputs { weight: Some(&weights), ..PairInputs::reference(&REF_LOGPS) };
    // Labels beyond i32, and the numbers that stand for others in the entries.
    for (row, label) in [(4, VOCAB as i64), (12, -1), (13, -2), (14, 1 << 32), (41, i64::MIN)] {
        for how in [How::new(false, 100), How::new(false, 5), How::new(true, 100)] {
            let mut case = Case::new("label", batch, sigmoid(), inputs, false);
            assert!(case.labels_of(row).is_some());
            case.labels[row] = label;
            let found = run::<T>(executor, &case, how);
            let status = &found.out.logps.status;
            assert_eq!((status.bad_label, status.nonfinite_row), (Some(row), Some(row)));
            assert!(found.hidden[row * HIDDEN..][..HIDDEN].iter().all(|value| value.is_nan()));
            assert!(found.out.logps.token_logps[row].is_nan());
            assert!(found.nonfinite_row.is_some_and(|first| first <= row));
        }
    }
}

/// No product, zeros, and a status that says so; in a batch whose first sequence is empty as well.
fn nothing_scored_moves_nothing<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let cu_seqlens = [0, 0, 3];
    let packed = HostBatch::packed(&cu_seqlens[..], 3, VOCAB, LabelAlignment::Aligned);
    for batch in [HostBatch::padded(2, 3, VOCAB, LabelAlignment::Aligned), packed] {
        for how in [How::new(false, 1), How::new(true, 1), How { in_one: false, ..How::new(false, 1) }] {
            let inputs = PairInputs::reference(&REF_LOGPS[..2]);
            let mut case = Case::new("empty", batch, sigmoid(), inputs, true);
            case.labels.fill(IGNORE_INDEX);
            case.hidden.fill(f32::NAN);
            let found = run::<T>(executor, &case, how);
            let logps = &found.out.logps;
            assert_eq!((logps.status.empty_sequence, &logps.logps[..]), (Some(0), &[0.0, 0.0][..]));
            assert_eq!(logps.scored, [0, 0]);
            rows_without_labels_hold_0(&case, &found);
            assert!(found.hidden.iter().all(|value| value.to_bits() == 0));
            assert!(found.weight.iter().chain(&found.bias).all(|&value| value == START));
        }
    }
}

/// Pairs past a hinge: exact zeros.
fn coefficients_of_0_move_nothing<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let batch = HostBatch::padded(2, 8, VOCAB, LabelAlignment::Aligned);
    // The chosen answer has gained far more than the margin asks for.
    let inputs = PairInputs::reference(&[-1e4, 0.0]);
    let case = Case::new("hinge", batch, PairLoss::hinge(0.3).unwrap(), inputs, true);
    for how in [How::new(false, 1), How::new(false, 100), How::new(true, 4)] {
        let found = run::<T>(executor, &case, how);
        assert_eq!(found.out.pairs.coef, [0.0, 0.0]);
        assert!(found.hidden.iter().all(|&value| value == 0.0) && found.nonfinite_row.is_none());
        assert!(found.weight.iter().chain(&found.bias).all(|&value| value == START));
    }
}

/// Token metrics come out of the same logits: entropies are right, metrics of rows without labels are 0, and nothing else is further
/// from what is right. |∂H/∂z′| adds up to 2 ln V at most.
fn metrics_change_nothing_else<T: Logit>(executor: &mut OnDevice<impl Device>) {
    for case in &cases()[..3] {
        let expected = Expected::of(case, &KERNELS, T::DTYPE, T::DTYPE);
        let found = run::<T>(executor, case, How { metrics: true, ..How::new(false, 29) });
        expected.check(case, T::DTYPE, false, &found);
        let metrics = found.out.logps.metrics.as_ref().unwrap();
        let arrays = [&metrics.entropy, &metrics.correct, &metrics.mean_logit, &metrics.sum_p2];
        let columns = case.batch.columns();
        let bound = KERNELS.row(columns, &case.batch.transform).entropy();
        let logit_errors = case.logit_errors(&case.logits(), T::DTYPE);
        let right = &expected.logps.metrics.as_ref().unwrap().entropy;
        for row in 0..case.batch.rows() {
            if case.labels_of(row).is_none() {
                assert!(arrays.iter().all(|array| array[row].to_bits() == 0), "row {row}");
                continue;
            }
            let bound = bound + 2.0 * (columns as f64).ln() * logit_errors[row];
            let found = f64::from(metrics.entropy[row]);
            assert!(
                (found - right[row]).abs() <= bound,
                "row {row}: {found}, {} within {bound:e}",
                right[row]
            );
        }
        assert_eq!(metrics.mean.scored as usize, case.scored());
    }
}

/// A batch without pairs, with everything that logits may go through, and coefficients: of both, of one alone, and of none.
fn with_coefficients() -> (Case<'static>, Vec<f32>, Vec<f32>) {
    let batch = HostBatch {
        pairs: Pairs::None,
        transform: Transform { scale: 0.7, softcap: Some(6.0), valid_vocab: Some(VOCAB - 3) },
        ..HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned)
    };
    let case = Case::new("entropies", batch, sigmoid(), PairInputs::default(), true);
    let mut random = Random(11);
    let (mut sequences, mut entropies) = (mixed(&mut random, 6), mixed(&mut random, batch.rows()));
    sequences[..2].fill(0.0);
    entropies[8..24].fill(0.0);
    (case, sequences, entropies)
}

/// An objective with entropies in it, whatever the chunks and the type of the logits.
fn entropies_have_gradients<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let (case, sequences, entropies) = with_coefficients();
    // Small coefficients are no smaller in a gradient of f16.
    let small = |coef: &[f32]| coef.iter().map(|c| c / 1024.0).collect::<Vec<f32>>();
    for (sequences, entropies) in [(small(&sequences), small(&entropies)), (sequences, entropies)] {
        for chunk_rows in [7, case.scored()] {
            for wide_logits in [false, true] {
                let how = How { wide_logits, ..How::new(false, chunk_rows) };
                let logits_dtype = how.logits_dtype::<T>();
                let found = run_with_entropies::<T>(executor, &case, [&sequences, &entropies], how);
                let expected = ExpectedGradients::with_entropies(
                    &case,
                    &KERNELS,
                    T::DTYPE,
                    logits_dtype,
                    &sequences,
                    &entropies,
                );
                let name = format!("{:?}, {chunk_rows} rows, {logits_dtype:?} logits", T::DTYPE);
                expected.check(&name, &case, T::DTYPE, [&found.hidden, &found.weight, &found.bias]);
                assert_eq!(found.nonfinite_row, None, "{name}");
                // Sequence 1 has neither.
                assert!(
                    found.hidden[8 * HIDDEN..16 * HIDDEN].iter().all(|value| value.to_bits() == 0),
                    "{name}"
                );
            }
        }
    }
}

/// Where dX is not wanted, an entropy's coefficient tells.
fn entropies_that_are_not_finite_are_named<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let (case, mut sequences, mut entropies) = with_coefficients();
    let row = (40..48).rfind(|&row| case.labels_of(row).is_some()).unwrap();
    for (of_sequence, of_row) in [(0.5, f32::INFINITY), (0.5, f32::NAN), (0.0, f32::NAN)] {
        (sequences[5], entropies[row]) = (of_sequence, of_row);
        for weight_alone in [false, true] {
            let how = How { weight_alone, ..How::new(false, 7) };
            let found = run_with_entropies::<T>(executor, &case, [&sequences, &entropies], how);
            assert_eq!(found.nonfinite_row, Some(row), "{of_sequence}, {of_row}");
            assert!(found.weight.iter().any(|value| !value.is_finite()), "{of_sequence}, {of_row}");
        }
    }
}

/// Logits of f32 between 16-bit hidden states and a 16-bit G: every way, within bounds of their own, in which no logit is rounded.
fn logits_are_f32_by_choice<T: Logit>(executor: &mut OnDevice<impl Device>) {
    for case in &cases() {
        let expected = Expected::of(case, &KERNELS, T::DTYPE, DType::F32);
        for frozen in [false, true] {
            for chunk_rows in [13, case.scored()] {
                let how = How { wide_logits: true, ..How::new(frozen, chunk_rows) };
                expected.check(case, T::DTYPE, frozen, &run::<T>(executor, case, how));
            }
        }
        let how = How { wide_logits: true, in_one: false, metrics: true, ..How::new(false, 11) };
        expected.check(case, T::DTYPE, false, &run::<T>(executor, case, how));
    }
}
