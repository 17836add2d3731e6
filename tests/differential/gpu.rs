//! What runs on a real GPU only, and the suite itself there.

use std::io::Write as _;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice};
use dpo_kernels::PairInputs;
use dpo_kernels::cuda::images::{IMAGES, Kind};
use dpo_kernels::cuda::{self, BatchMetrics, DeviceLabels, DpoPass, Kernels, PairSlices};
use dpo_kernels::{Error, Forward, Logit, MetricsLevel, PairLoss, cpu};
use dpo_kernels::{MeanTokenMetrics, PairMetrics, TokenMetrics};
use half::{bf16, f16};

use crate::case::{Case, OwnedLabels, Spec};
use crate::executor::{Cuda, Executor, OnDevice};
use crate::expected::Expected;
use crate::interpreter::{Interpreter, samples};
use crate::vectors::Element;

type Test = fn(&Arc<CudaContext>);

const TESTS: [(&str, Test); 10] = [
    ("pair_loss at its limits", pair_stage),
    ("differential suite, f32", suite::<f32>),
    ("differential suite, f16", suite::<f16>),
    ("differential suite, bf16", suite::<bf16>),
    ("the PTX, which the interpreter runs, gives the same here", ptx),
    ("the convenience gives the CPU backend's numbers", convenience),
    ("figures of the batch come by one copy, and are where they are said to be", figures),
    ("wrong lengths are refused before any launch", refusals),
    ("the convenience of the factored forward gives the CPU backend's numbers", factored_convenience),
    ("forward and backward, and the factored forward, replay from a graph with changed inputs", graph),
];

/// Runs every test on the first GPU, or says how many were skipped and why. DPO_REQUIRE_GPU makes that a failure.
pub fn run() {
    // Straight to standard output: the test harness would hold it back.
    let mut out = std::io::stdout();
    match cuda::context(0) {
        Ok(context) => {
            for (name, test) in TESTS {
                test(&context);
                writeln!(out, "gpu: {name}: ok").unwrap();
            }
        }
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            assert!(std::env::var_os("DPO_REQUIRE_GPU").is_none(), "{error}");
            writeln!(out, "gpu: {} tests skipped: {error}", TESTS.len()).unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

fn pair_stage(_: &Arc<CudaContext>) {
    crate::pair_stage::every_kind(&mut OnDevice(Cuda::open().unwrap()));
}

fn suite<T: Logit + Element + Into<f64>>(_: &Arc<CudaContext>) {
    let mut executor = OnDevice(Cuda::open().unwrap());
    crate::run_checks_on_device::<T>(&mut executor);
    crate::run_layouts::<T>(&mut executor);
}

/// The driver's own translation of the PTX. What the arithmetic determines is the same bit for bit; what goes through
/// exp2 may differ within its documented error, for which both are within the bounds.
fn ptx(context: &Arc<CudaContext>) {
    let images: Vec<_> = IMAGES.iter().filter(|image| image.kind == Kind::Ptx).copied().collect();
    let kernels = Kernels::from_images(context, &images).unwrap();
    let mut gpu = OnDevice(Cuda::with(context, kernels));
    let mut interpreter = OnDevice(Interpreter::new(ptx_vm::Options::default()));
    for case in samples::<f16>() {
        let (found, expected) = (gpu.run(&case), interpreter.run(&case));
        Expected::of(&case).check("PTX on a GPU", &case, &found);
        assert_eq!(found.logps.status, expected.logps.status);
        assert_eq!(found.logps.scored, expected.logps.scored);
        // Sequence sums and `pair_loss`'s differences are exact arithmetic on the same token log-probs, where those agree.
        if found.logps.token_logps == expected.logps.token_logps {
            assert_eq!(found.logps.logps, expected.logps.logps);
            assert_eq!(found.pairs.margins, expected.pairs.margins);
        }
    }
}

fn labels_of(case: &Case<bf16>) -> &[i64] {
    match &case.labels {
        OwnedLabels::I64(labels) => labels,
        OwnedLabels::I32(_) => panic!("the plain case has 64-bit labels"),
    }
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        approx::assert_relative_eq!(found, expected, max_relative = 1e-4, epsilon = 1e-5);
    }
}

fn convenience(context: &Arc<CudaContext>) {
    let case = Case::<bf16>::draw(Spec::plain(5003));
    let loss = PairLoss::sigmoid(0.1f32).unwrap();
    let mut expected = Forward::default();
    cpu::forward(
        &case.batch(),
        &case.logits,
        case.labels(),
        &PairInputs { ref_logps: case.ref_logps.as_deref(), ..PairInputs::NONE },
        &loss,
        &mut expected,
    )
    .unwrap();

    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let mut pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
    let mut logits = stream.clone_htod(&case.logits).unwrap();
    let labels = stream.clone_htod(labels_of(&case)).unwrap();
    let ref_logps = stream.clone_htod(case.ref_logps.as_ref().unwrap()).unwrap();
    let inputs = PairSlices { ref_logps: Some(&ref_logps), ..PairSlices::NONE };
    pass.forward(&logits, &labels, &inputs, &loss).unwrap();
    let (logps, pairs) = (pass.read_logps().unwrap(), pass.read_pairs().unwrap());
    assert!(logps.status.is_clean());
    close(&logps.logps, &expected.logps.logps);
    close(&pairs.margins, &expected.pairs.margins);
    close(&pairs.coef, &expected.pairs.coef);
    close(&[pairs.metrics.loss], &[expected.pairs.metrics.loss]);

    let mut apart = stream.alloc_zeros::<bf16>(case.logits.len()).unwrap();
    let upstream = stream.clone_htod(&[3.0f32]).unwrap();
    pass.backward(&logits, &labels, Some(&upstream), 0.5, &mut apart).unwrap();
    pass.backward_in_place(&mut logits, &labels, Some(&upstream), 0.5).unwrap();
    let (apart, in_place) = (stream.clone_dtoh(&apart).unwrap(), stream.clone_dtoh(&logits).unwrap());
    let mut gradient = vec![bf16::ZERO; case.logits.len()];
    let logsumexp = (&expected.logps).into();
    cpu::backward(
        &case.batch(),
        &case.logits,
        case.labels(),
        logsumexp,
        &expected.pairs.coef,
        1.5,
        &mut gradient,
    )
    .unwrap();
    assert_eq!(apart, in_place);
    for (found, expected) in apart.iter().zip(&gradient) {
        // One rounding apart at most, where the f32 values straddle a tie.
        approx::assert_relative_eq!(found.to_f32(), expected.to_f32(), max_relative = 8e-3, epsilon = 1e-6);
    }
}

fn figures(context: &Arc<CudaContext>) {
    let mut case = Case::<bf16>::draw(Spec::plain(5003));
    case.labels.set(3, -100);
    case.labels.set(7, 5003);
    let loss = PairLoss::sigmoid(0.1f32).unwrap().without_reference();
    let mut expected = Forward::default();
    expected.logps.metrics = Some(TokenMetrics::default());
    let labels = case.labels();
    cpu::forward(&case.batch(), &case.logits, labels, &PairInputs::NONE, &loss, &mut expected).unwrap();

    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
    assert!(pass.read_metrics().unwrap().tokens.is_none() && pass.device_mean_token_metrics().is_none());
    let mut pass = pass.with_token_metrics(MetricsLevel::All).unwrap();
    let logits = stream.clone_htod(&case.logits).unwrap();
    let labels = stream.clone_htod(labels_of(&case)).unwrap();
    pass.forward(&logits, &labels, &PairSlices::NONE, &loss).unwrap();
    let BatchMetrics { status, pairs, tokens } = pass.read_metrics().unwrap();
    assert_eq!(status, expected.logps.status);
    // The bad label's pair is NaN, and its row in every mean but the accuracy.
    let PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy, .. } = pairs;
    let of_cpu = expected.pairs.metrics;
    let counts = |metrics: &PairMetrics<f32>| [metrics.pairs, metrics.chosen, metrics.rejected];
    assert_eq!(counts(&pairs), counts(&of_cpu));
    assert!(loss.is_nan() && chosen_reward.is_finite() != rejected_reward.is_finite() && margin.is_nan());
    let on_device = stream.clone_dtoh(&pass.device_pair_metrics()).unwrap();
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&on_device), bits(&[loss, chosen_reward, rejected_reward, margin, accuracy]));
    let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = tokens.unwrap();
    let of_cpu = expected.logps.metrics.unwrap().mean;
    assert_eq!((scored, accuracy), (of_cpu.scored, of_cpu.accuracy));
    let on_device = stream.clone_dtoh(&pass.device_mean_token_metrics().unwrap()).unwrap();
    assert_eq!(bits(&on_device), bits(&[entropy, accuracy, mean_logit, logsumexp, sum_p2]));
    assert!([entropy, mean_logit, logsumexp, sum_p2].iter().all(|mean| mean.is_nan()));

    let labels = vec![5i64; labels_of(&case).len()];
    let labels = stream.clone_htod(&labels).unwrap();
    pass.logps(&logits, &labels).unwrap();
    let logps = pass.read_logps().unwrap();
    let metrics = logps.metrics.unwrap();
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    close(
        &[metrics.mean.entropy, metrics.mean.mean_logit, metrics.mean.logsumexp, metrics.mean.sum_p2],
        &[mean(&metrics.entropy), mean(&metrics.mean_logit), mean(&logps.logsumexp), mean(&metrics.sum_p2)],
    );
}

fn factored_convenience(context: &Arc<CudaContext>) {
    let case = Case::<bf16>::draw(Spec::plain(5003));
    let loss = PairLoss::sigmoid(0.1f32).unwrap();
    let inputs = PairInputs { ref_logps: case.ref_logps.as_deref(), ..PairInputs::default() };
    let (mut expected, mut gradient) = (Forward::default(), case.logits.clone());
    cpu::factored_in_place(&case.batch(), &mut gradient, case.labels(), &inputs, &loss, &mut expected)
        .unwrap();

    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let mut pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
    let mut logits = stream.clone_htod(&case.logits).unwrap();
    let mut apart = stream.alloc_zeros::<bf16>(case.logits.len()).unwrap();
    let labels = stream.clone_htod(labels_of(&case)).unwrap();
    let labels = &labels;
    let ref_logps = stream.clone_htod(case.ref_logps.as_ref().unwrap()).unwrap();
    let inputs = PairSlices { ref_logps: Some(&ref_logps), ..PairSlices::default() };
    pass.factored(&logits, labels, &inputs, &loss, &mut apart).unwrap();
    let (logps, pairs) = (pass.read_logps().unwrap(), pass.read_pairs().unwrap());
    pass.factored_in_place(&mut logits, labels, &inputs, &loss).unwrap();
    assert_eq!((&logps, &pairs), (&pass.read_logps().unwrap(), &pass.read_pairs().unwrap()));
    close(&logps.logps, &expected.logps.logps);
    close(&pairs.coef, &expected.pairs.coef);
    close(&[pairs.metrics.loss], &[expected.pairs.metrics.loss]);

    let (apart, in_place) = (stream.clone_dtoh(&apart).unwrap(), stream.clone_dtoh(&logits).unwrap());
    assert_eq!(apart, in_place);
    for (found, expected) in apart.iter().zip(&gradient) {
        // One rounding apart at most, where the f32 values straddle a tie.
        approx::assert_relative_eq!(found.to_f32(), expected.to_f32(), max_relative = 8e-3, epsilon = 1e-6);
    }
}

fn refusals(context: &Arc<CudaContext>) {
    let case = Case::<bf16>::draw(Spec::plain(32));
    let stream = context.default_stream();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let mut pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
    let short = stream.alloc_zeros::<bf16>(case.logits.len() - 1).unwrap();
    let logits = stream.clone_htod(&case.logits).unwrap();
    let labels = stream.clone_htod(labels_of(&case)).unwrap();
    let few = stream.alloc_zeros::<i32>(3).unwrap();
    let argument = |result: Result<(), Error>| match result.unwrap_err() {
        Error::Length { argument, .. } => argument,
        other => panic!("not a length error: {other}"),
    };
    assert_eq!(argument(pass.logps(&short, &labels)), "logits");
    assert_eq!(argument(pass.logps(&logits, &few)), "labels");
    let available = cuda::device_count().unwrap();
    assert_eq!(cuda::context(available).unwrap_err(), Error::NoDevice { ordinal: available, available });
}

/// Nothing in a launch allocates, copies or waits, and the counters reset themselves: with several rows to a block, one,
/// and several blocks to a row.
fn graph(context: &Arc<CudaContext>) {
    for vocab in [1003, 5003, 40_009, 128_256] {
        let loss = PairLoss::sigmoid(0.1f32).unwrap().without_reference();
        replay(context, vocab, |pass, logits, labels| {
            pass.forward(logits, labels, &PairSlices::NONE, &loss).unwrap();
            pass.backward_in_place(logits, labels, None, 1.0).unwrap();
        });
        replay(context, vocab, |pass, logits, labels| {
            pass.factored_in_place(logits, labels, &PairSlices::default(), &loss).unwrap();
        });
    }
}

/// What `launch` leaves in the pass and in the logits, captured and replayed, and at once.
fn replay(
    context: &Arc<CudaContext>,
    vocab: usize,
    launch: impl Fn(&mut DpoPass, &mut CudaSlice<bf16>, DeviceLabels<'_>),
) {
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

    // SAFETY: cudarc's events order the streams that share a buffer, and cannot be captured. Everything below is on one
    // stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let first = Case::<bf16>::draw(Spec::plain(vocab));
    let mut pass = DpoPass::new(&kernels, &stream, &first.batch()).unwrap();
    let mut logits = stream.clone_htod(&first.logits).unwrap();
    let mut labels = stream.clone_htod(labels_of(&first)).unwrap();
    stream.synchronize().unwrap();

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    launch(&mut pass, &mut logits, &labels);
    let instantiate = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(instantiate).unwrap().expect("launches were captured");
    for seed in 1..4 {
        let case = Case::<bf16>::draw(Spec { seed, ..Spec::plain(vocab) });
        stream.memcpy_htod(&case.logits, &mut logits).unwrap();
        stream.memcpy_htod(labels_of(&case), &mut labels).unwrap();
        graph.launch().unwrap();
        let replayed = (pass.read_logps().unwrap(), stream.clone_dtoh(&logits).unwrap());
        stream.memcpy_htod(&case.logits, &mut logits).unwrap();
        launch(&mut pass, &mut logits, &labels);
        assert_eq!(replayed, (pass.read_logps().unwrap(), stream.clone_dtoh(&logits).unwrap()));
    }
    // SAFETY: one stream, as above, and what it was given has been read back.
    unsafe { context.enable_event_tracking() };
}
