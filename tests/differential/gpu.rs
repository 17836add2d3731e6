//! What runs on a real GPU only, and the suite itself there.

use std::io::Write as _;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView};
use dpo_kernels::PairInputs;
use dpo_kernels::cpu::BackwardInputs;
use dpo_kernels::cpu::lm_head::LmHeadWorkspace;
use dpo_kernels::cuda::images::{IMAGES, Kind};
use dpo_kernels::cuda::{
    self, BatchMetrics, Capacity, DeviceLabels, DpoPass, Kernels, LmHeadGradientSlices, LmHeadMemory,
    LmHeadPass, LmHeadSlices, PairSlices, Products,
};
use dpo_kernels::{
    DType, EntropyCoef, Error, Forward, HostBatch, LabelAlignment, LabelType, LmHead, LmHeadGradients, Logit,
    Logps, MetricsLevel, PairLoss, Pairs, Transform, cpu,
};
use dpo_kernels::{MeanTokenMetrics, PairMetrics, TokenMetrics};
use half::{bf16, f16};

use crate::case::{Case, Mask, OwnedLabels, PairKind, Spec};
use crate::executor::{Cuda, Executor, OnDevice};
use crate::expected::Expected;
use crate::interpreter::{Interpreter, samples};
use crate::random::Random;
use crate::vectors::Element;

type Test = fn(&Arc<CudaContext>);

const TESTS: [(&str, Test); 18] = [
    ("pair_loss at its limits", pair_stage),
    ("differential suite, f32", suite::<f32>),
    ("differential suite, f16", suite::<f16>),
    ("differential suite, bf16", suite::<bf16>),
    ("the PTX, which the interpreter runs, gives the same here", ptx),
    ("the convenience gives the CPU backend's numbers", convenience),
    ("the convenience of an entropy's gradient gives the CPU backend's numbers", entropies),
    ("figures of the batch come by one copy, and are where they are said to be", figures),
    ("wrong lengths are refused before any launch", refusals),
    ("the convenience of the factored forward gives the CPU backend's numbers", factored_convenience),
    (
        "the passes replay from a graph with changed inputs, and cu_seqlens after another batch is bound",
        graph,
    ),
    ("a pass that is bound to batch after batch gives the bits of a pass of each batch's own", rebinding),
    ("a batch that a pass refuses leaves it as it was", refused_batches),
    ("micro-batches that are views of one buffer give the bits of buffers of their own", micro_batches),
    ("the head's kernels, f32", head::<f32>),
    ("the head's kernels, f16", head::<f16>),
    ("the head's kernels, bf16", head::<bf16>),
    ("the head by cuBLASLt, where there is one, and LmHeadPass", head_by_library),
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

/// With products by their definition.
fn head<T: Logit>(_: &Arc<CudaContext>) {
    crate::lm_head::on_device::<T>(&mut OnDevice(Cuda::open().unwrap()));
}

/// Products by cuBLASLt give what is right, too, and `LmHeadPass` gives what the CPU backend gives; a machine without the
/// library says so.
fn head_by_library(context: &Arc<CudaContext>) {
    match Products::new(context) {
        Ok(products) => {
            let products = Arc::new(products);
            let mut executor = OnDevice(Cuda::open().unwrap().multiplying_with(&products));
            crate::lm_head::on_device::<f32>(&mut executor);
            crate::lm_head::on_device::<f16>(&mut executor);
            crate::lm_head::on_device::<bf16>(&mut executor);
            head_pass(context, &products);
        }
        Err(error @ Error::NoCublasLt { .. }) => {
            let mut out = std::io::stdout();
            writeln!(out, "gpu: the head by cuBLASLt skipped: {error}").unwrap();
        }
        Err(error) => panic!("{error}"),
    }
}

/// The same numbers as on the CPU, up to the roundings of sums of 64 numbers below 1.
fn head_pass(context: &Arc<CudaContext>, products: &Arc<Products>) {
    const SIZE: usize = 64;
    let (stream, vocab) = (context.default_stream(), 501);
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let batch = HostBatch::padded(4, 9, vocab, LabelAlignment::NextToken);
    let mut random = Random(11);
    let mut draw = |count: usize| (0..count).map(|_| random.symmetric()).collect::<Vec<f32>>();
    let (hidden, weight, ref_logps) = (draw(36 * SIZE), draw(vocab * SIZE), [-50.0f32, -49.0, -51.0, -52.0]);
    let labels: Vec<i64> = (0..36).map(|row| if row % 4 == 2 { -100 } else { row * 7 }).collect();
    let loss = PairLoss::sigmoid(0.1).unwrap();

    let mut expected = Forward::default();
    let (mut dhidden, mut dweight) = (vec![0.0f32; hidden.len()], vec![0.0f32; weight.len()]);
    let head = LmHead { hidden_size: SIZE, hidden: &hidden, weight: &weight, bias: None };
    let mut gradients = LmHeadGradients {
        hidden: Some(&mut dhidden),
        weight: Some(&mut dweight),
        ..LmHeadGradients::default()
    };
    let inputs = PairInputs::reference(&ref_logps);
    let mut workspace = LmHeadWorkspace::default();
    let given = labels[..].into();
    cpu::lm_head::forward(
        &batch,
        &head,
        given,
        &inputs,
        &loss,
        &mut expected,
        &mut gradients,
        &mut workspace,
    )
    .unwrap()
    .check()
    .unwrap();

    let memory = LmHeadMemory::new(Capacity::of(&batch), DType::F32, SIZE);
    // Chunks of whole pairs, and of less than a pair.
    for budget_bytes in [memory.budget_bytes, 5 * memory.bytes_per_row(vocab)] {
        let memory = LmHeadMemory { budget_bytes, ..memory };
        let mut pass =
            LmHeadPass::new(&kernels, products, &stream, memory, &batch, labels[..].into()).unwrap();
        let on_device = |values: &[f32]| stream.clone_htod(values).unwrap();
        let (x, w, reference) = (on_device(&hidden), on_device(&weight), on_device(&ref_logps));
        let (mut dx, mut dw) = (on_device(&vec![9.0; hidden.len()]), on_device(&vec![0.0; weight.len()]));
        let head = LmHeadSlices { hidden: x.as_view(), weight: w.as_view(), bias: None };
        let mut gradients = LmHeadGradientSlices {
            hidden: Some(dx.as_view_mut()),
            weight: Some(dw.as_view_mut()),
            ..LmHeadGradientSlices::default()
        };
        pass.forward(&head, &PairSlices::reference(reference.as_view()), &loss, &mut gradients).unwrap();
        assert!(pass.take_gradient_status().unwrap().is_clean());
        close(&pass.read_logps().unwrap().token_logps, &expected.logps.token_logps);
        close(&pass.read_pairs().unwrap().coef, &expected.pairs.coef);
        close(&stream.clone_dtoh(&dx).unwrap(), &dhidden);
        close(&stream.clone_dtoh(&dw).unwrap(), &dweight);

        // The same gradients by a loss of one's own, whose coefficients are there already.
        let mut again = on_device(&vec![9.0; hidden.len()]);
        let mut gradients =
            LmHeadGradientSlices { hidden: Some(again.as_view_mut()), ..LmHeadGradientSlices::default() };
        pass.backward(&head, &mut gradients).unwrap();
        close(&stream.clone_dtoh(&again).unwrap(), &dhidden);

        // Labels that the device alone has are fetched.
        let elsewhere = stream.clone_htod(&labels).unwrap();
        pass.bind(&batch, DeviceLabels::from(&elsewhere).to_host().unwrap()[..].into()).unwrap();
        pass.logps(&head).unwrap();
        close(&pass.read_logps().unwrap().token_logps, &expected.logps.token_logps);

        // Too short a weight is refused, and so is a gradient in the place of what is read.
        let short = LmHeadSlices { weight: w.slice(1..), ..head };
        let refused = pass.logps(&short).unwrap_err();
        assert!(matches!(refused, Error::Length { argument: "weight", .. }), "{refused}");
    }
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
    let inputs = PairSlices::reference(ref_logps.as_view());
    pass.forward(&logits, &labels, &inputs, &loss).unwrap();
    let (logps, pairs) = (pass.read_logps().unwrap(), pass.read_pairs().unwrap());
    assert!(logps.status.is_clean());
    close(&logps.logps, &expected.logps.logps);
    close(&pairs.margins, &expected.pairs.margins);
    close(&pairs.coef, &expected.pairs.coef);
    close(&[pairs.metrics.loss], &[expected.pairs.metrics.loss]);

    let mut apart = stream.alloc_zeros::<bf16>(case.logits.len()).unwrap();
    let upstream = stream.clone_htod(&[3.0f32]).unwrap();
    pass.backward(&logits, &labels, Some(upstream.as_view()), 0.5, &mut apart).unwrap();
    pass.backward_in_place(&mut logits, &labels, Some(upstream.as_view()), 0.5).unwrap();
    let (apart, in_place) = (stream.clone_dtoh(&apart).unwrap(), stream.clone_dtoh(&logits).unwrap());
    let mut gradient = vec![bf16::ZERO; case.logits.len()];
    let backward_inputs = BackwardInputs::from(&expected).with_upstream(1.5);
    cpu::backward(&case.batch(), &case.logits, case.labels(), backward_inputs, &mut gradient).unwrap();
    assert_eq!(apart, in_place);
    for (found, expected) in apart.iter().zip(&gradient) {
        // One rounding apart at most, where the f32 values straddle a tie.
        approx::assert_relative_eq!(found.to_f32(), expected.to_f32(), max_relative = 8e-3, epsilon = 1e-6);
    }
}

fn entropies(context: &Arc<CudaContext>) {
    let spec = Spec { metrics: MetricsLevel::Entropy, entropy_coef: true, ..Spec::plain(5003) };
    let case = Case::<bf16>::draw(spec);
    let coef = case.entropy_coef.as_ref().unwrap();
    let mut expected = Logps { metrics: Some(TokenMetrics::default()), ..Logps::default() };
    cpu::logps(&case.batch(), &case.logits, case.labels(), &mut expected).unwrap();
    let entropy = &expected.metrics.as_ref().unwrap().entropy;
    let sequences = [0.5, -0.25, 1.0, 0.0];
    let inputs = BackwardInputs::new(&expected, &sequences).with_entropy(EntropyCoef { coef, entropy });
    let mut gradient = vec![bf16::ZERO; case.logits.len()];
    cpu::backward(&case.batch(), &case.logits, case.labels(), inputs, &mut gradient).unwrap();

    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let mut pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap().with_entropy_coef().unwrap();
    let mut logits = stream.clone_htod(&case.logits).unwrap();
    let labels = stream.clone_htod(labels_of(&case)).unwrap();
    pass.logps(&logits, &labels).unwrap();
    close(&stream.clone_dtoh(&pass.device_entropy().unwrap()).unwrap(), entropy);
    stream.memcpy_htod(&sequences, &mut pass.coef_mut()).unwrap();
    stream.memcpy_htod(coef, &mut pass.entropy_coef_mut().unwrap()).unwrap();
    pass.backward_in_place(&mut logits, &labels, None, 1.0).unwrap();
    pass.take_gradient_status().unwrap().check().unwrap();
    for (found, expected) in stream.clone_dtoh(&logits).unwrap().iter().zip(&gradient) {
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
    let labels = &stream.clone_htod(labels_of(&case)).unwrap();
    let ref_logps = stream.clone_htod(case.ref_logps.as_ref().unwrap()).unwrap();
    let inputs = PairSlices::reference(ref_logps.as_view());
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

/// Packed sequences of as many rows in all, whichever the seed, but not each.
fn packed(vocab: usize, seed: u64) -> Case<bf16> {
    let mut case = Case::<bf16>::draw(Spec { seed, ..Spec::plain(vocab) });
    let cu_seqlens = [[0, 3, 6, 9, 12], [0, 1, 4, 5, 12], [0, 6, 7, 11, 12], [0, 2, 2, 10, 12]];
    case.cu_seqlens = cu_seqlens[seed as usize % cu_seqlens.len()].to_vec();
    case.spec.packed = true;
    case
}

/// What `launch` leaves in the pass and in the logits: captured, and replayed after another batch of the same
/// counts is bound; at once; and in a pass of that batch's own.
fn replay(
    context: &Arc<CudaContext>,
    vocab: usize,
    launch: impl Fn(&mut DpoPass, &mut CudaSlice<bf16>, &CudaSlice<i64>),
) {
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

    // SAFETY: cudarc's events order the streams that share a buffer, and cannot be captured. Everything below is on one
    // stream.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let first = packed(vocab, 0);
    let capacity = Capacity { sequences: 7, rows: 50, pairs: 5, vocab: vocab + 5 };
    let mut pass = DpoPass::with_capacity(&kernels, &stream, capacity, &first.batch()).unwrap();
    let mut logits = stream.clone_htod(&first.logits).unwrap();
    let mut labels = stream.clone_htod(labels_of(&first)).unwrap();
    stream.synchronize().unwrap();

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    launch(&mut pass, &mut logits, &labels);
    let refused = pass.bind(&packed(vocab, 1).batch()).unwrap_err();
    assert!(matches!(refused, Error::Value { argument: "stream", .. }), "{refused}");
    let instantiate = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(instantiate).unwrap().expect("launches were captured");
    for seed in 1..4 {
        let case = packed(vocab, seed);
        // A batch of another shape in between, which goes through the same memory.
        let other = Case::<bf16>::draw(Spec { sequences: 6, longest: 8, ..Spec::plain(vocab + 5) });
        pass.bind(&other.batch()).unwrap();
        let (mut other_logits, other_labels) =
            (stream.clone_htod(&other.logits).unwrap(), stream.clone_htod(labels_of(&other)).unwrap());
        launch(&mut pass, &mut other_logits, &other_labels);

        pass.bind(&case.batch()).unwrap();
        stream.memcpy_htod(&case.logits, &mut logits).unwrap();
        stream.memcpy_htod(labels_of(&case), &mut labels).unwrap();
        graph.launch().unwrap();
        let replayed = (pass.read_logps().unwrap(), stream.clone_dtoh(&logits).unwrap());
        let mut own = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
        for pass in [&mut pass, &mut own] {
            stream.memcpy_htod(&case.logits, &mut logits).unwrap();
            launch(pass, &mut logits, &labels);
            assert_eq!(replayed, (pass.read_logps().unwrap(), stream.clone_dtoh(&logits).unwrap()));
        }
    }
    // SAFETY: one stream, as above, and what it was given has been read back.
    unsafe { context.enable_event_tracking() };
}

/// What a pass that a case is bound to gives, every bit of it: by `forward` and `backward`, and by `factored`
/// where there are no token metrics.
fn given(
    pass: &mut DpoPass,
    stream: &Arc<CudaStream>,
    case: &Case<bf16>,
    logits: &CudaView<'_, bf16>,
    labels: &DeviceLabels<'_>,
    ref_logps: CudaView<'_, f32>,
) -> String {
    let (inputs, loss) = (PairSlices::reference(ref_logps), &case.spec.loss);
    let mut gradient = stream.clone_htod(&vec![bf16::ZERO; case.logits.len()]).unwrap();
    let upstream = stream.clone_htod(&[7.0f32, 3.0]).unwrap();
    pass.forward(logits, labels, &inputs, loss).unwrap();
    pass.backward(logits, labels, Some(upstream.slice(1..)), 0.5, &mut gradient).unwrap();
    let mut found = format!("{:?} {:?}", pass.read_logps().unwrap(), pass.read_pairs().unwrap());
    found +=
        &format!("{:?} {:?}", stream.clone_dtoh(&gradient).unwrap(), pass.take_gradient_status().unwrap());
    if pass.device_mean_token_metrics().is_none() && case.spec.transform == Transform::default() {
        pass.factored(logits, labels, &inputs, loss, &mut gradient).unwrap();
        found += &format!("{:?} {:?}", pass.read_logps().unwrap(), pass.read_pairs().unwrap());
        found += &format!("{:?}", stream.clone_dtoh(&gradient).unwrap());
    }
    found
}

/// [`given`] in buffers of the case's own.
fn given_alone(pass: &mut DpoPass, stream: &Arc<CudaStream>, case: &Case<bf16>) -> String {
    let (narrow, wide);
    let labels = match &case.labels {
        OwnedLabels::I32(labels) => {
            narrow = stream.clone_htod(labels).unwrap();
            DeviceLabels::from(&narrow)
        }
        OwnedLabels::I64(labels) => {
            wide = stream.clone_htod(labels).unwrap();
            DeviceLabels::from(&wide)
        }
    };
    let logits = stream.clone_htod(&case.logits).unwrap();
    let ref_logps = stream.clone_htod(case.ref_logps.as_ref().expect("the loss has a reference")).unwrap();
    given(pass, stream, case, &logits.as_view(), &labels, ref_logps.as_view())
}

/// Batches of every layout, from small to large and back, with rows of several to a block and of several
/// slices.
fn rebound_cases() -> Vec<Case<bf16>> {
    let plain = Spec { mask: Mask::Holes, ..Spec::plain(1003) };
    let packed = Spec { packed: true, sequences: 10, longest: 7, mask: Mask::EmptySequence, ..plain };
    let small = Spec { sequences: 2, longest: 1, ..plain };
    let long = Spec { sequences: 4, longest: 2, row_stride: 128_259, ..Spec::plain(128_256) };
    let kto = PairLoss::kto(0.1).unwrap().with_baseline(0.5).unwrap();
    let softcap = Transform { softcap: Some(20.0), valid_vocab: Some(900), ..Transform::default() };
    let next_token = LabelAlignment::NextToken;
    [
        small,
        Spec { pairs: PairKind::Interleaved, alignment: next_token, ..packed },
        Spec { pairs: PairKind::Indexed, sequences: 16, label_type: LabelType::I32, seed: 2, ..packed },
        long,
        Spec { pairs: PairKind::Unpaired, loss: kto, ..packed },
        Spec { sequences: 12, longest: 9, ld_alpha: 0.5, ..plain },
        Spec { packed: false, transform: softcap, row_stride: 1024, ..packed },
        small,
    ]
    .map(Case::draw)
    .into()
}

fn rebinding(context: &Arc<CudaContext>) {
    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let cases = rebound_cases();
    let capacity = cases.iter().map(|case| Capacity::of(&case.batch())).reduce(Capacity::max).unwrap();
    for level in [MetricsLevel::None, MetricsLevel::All] {
        let first = DpoPass::with_capacity(&kernels, &stream, capacity, &cases[0].batch()).unwrap();
        let mut pass = first.with_token_metrics(level).unwrap();
        for case in cases.iter().chain(cases.iter().rev()) {
            let batch = case.batch();
            pass.bind(&batch).unwrap();
            let own = DpoPass::new(&kernels, &stream, &batch).unwrap();
            let mut own = own.with_token_metrics(level).unwrap();
            let found = given_alone(&mut pass, &stream, case);
            assert_eq!(found, given_alone(&mut own, &stream, case), "{:?}", case.spec);

            let (sequences, rows) = (case.spec.sequences, case.rows());
            assert_eq!((pass.device_logps().len(), pass.coef_mut().len()), (sequences, sequences));
            let weighted = (case.spec.ld_alpha != 1.0).then_some(rows);
            assert_eq!(pass.token_coef_mut().map(|view| view.len()), weighted);
            let log_weights = pass.device_sequence_log_weights().map(|view| view.len());
            assert_eq!(log_weights, (level == MetricsLevel::All).then_some(sequences));
        }
        assert_eq!(pass.capacity(), capacity);
    }
}

fn refused_batches(context: &Arc<CudaContext>) {
    let stream = context.default_stream();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let case = packed(1003, 1);
    let mut pass = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
    let before = given_alone(&mut pass, &stream, &case);
    let batch = case.batch();
    let all = [0, 1, 2, 3];
    let pairs = Pairs::Indexed { chosen: &all[..3], rejected: &all[1..] };
    for (refused, said) in [
        (
            HostBatch::padded(6, 2, 1003, LabelAlignment::Aligned),
            "sequences: expected at most 4, the capacity, found 6",
        ),
        (
            HostBatch::padded(4, 4, 1003, LabelAlignment::Aligned),
            "rows: expected at most 12, the capacity, found 16",
        ),
        (
            HostBatch::padded(4, 3, 1004, LabelAlignment::Aligned),
            "vocab: expected at most 1003, the capacity, found 1004",
        ),
        (HostBatch { pairs, ..batch }, "pairs: expected at most 2, the capacity, found 3"),
        (
            HostBatch::packed(&[0, 3, 2, 9, 12], 12, 1003, LabelAlignment::Aligned),
            "cu_seqlens[2]: expected between 3 and 12, found 2",
        ),
    ] {
        assert_eq!(pass.bind(&refused).unwrap_err().to_string(), said);
        assert_eq!(given_alone(&mut pass, &stream, &case), before, "after {said}");
    }
    let capacity = Capacity { rows: 11, ..pass.capacity() };
    let refused = DpoPass::with_capacity(&kernels, &stream, capacity, &batch).unwrap_err();
    assert_eq!(refused.to_string(), "rows: expected at most 11, the capacity, found 12");
}

fn micro_batches(context: &Arc<CudaContext>) {
    let stream = context.new_stream().unwrap();
    let kernels = Arc::new(Kernels::new(context).unwrap());
    let cases = [1, 2, 3].map(|seed| packed(1003, seed));
    let mut pass = DpoPass::new(&kernels, &stream, &cases[0].batch()).unwrap();
    let labels: Vec<i64> = cases.iter().flat_map(labels_of).copied().collect();
    let labels = stream.clone_htod(&labels).unwrap();
    let logits: Vec<bf16> = cases.iter().flat_map(|case| case.logits.clone()).collect();
    let logits = stream.clone_htod(&logits).unwrap();
    let ref_logps: Vec<f32> = cases.iter().flat_map(|case| case.ref_logps.clone().unwrap()).collect();
    let ref_logps = stream.clone_htod(&ref_logps).unwrap();
    for (at, case) in cases.iter().enumerate() {
        pass.bind(&case.batch()).unwrap();
        let (rows, elements) = (case.rows(), case.logits.len());
        let part = |len: usize| at * len..(at + 1) * len;
        let labels = labels.slice(part(rows));
        let (logits, ref_logps) = (logits.slice(part(elements)), ref_logps.slice(part(case.spec.sequences)));
        let found = given(&mut pass, &stream, case, &logits, &labels.slice(..).into(), ref_logps);
        let mut own = DpoPass::new(&kernels, &stream, &case.batch()).unwrap();
        assert_eq!(found, given_alone(&mut own, &stream, case));
        // A view is as long as what it shows.
        let refused = pass.logps(&logits, labels.slice(1..)).unwrap_err();
        assert!(matches!(refused, Error::Length { argument: "labels", .. }), "{refused}");
    }
}
