//! Properties over random batches: the CPU backend agrees with the reference, and what must not matter does not.

mod common;

use common::golden::{Element, splitmix};
use common::judge::Judge;
use common::tolerance::gradient::{Coefficient, stored};
use common::tolerance::pair_arguments::PairArguments;
use common::tolerance::precision::{CPU, UNIT_F32};
use common::tolerance::sequence::Uncertain;
use common::{bits, widen};
use dpo_kernels::cpu::BackwardInputs;
use dpo_kernels::{
    DType, Forward, HostBatch, LabelAlignment, Labels, Logit, PairInputs, PairLoss, Pairs, Sequences,
    Transform, cpu, reference,
};
use dpo_kernels::{Logps, PairOutputs};
use half::{bf16, f16};
use proptest::prelude::*;

/// A batch and all that the three stages need, owned.
#[derive(Debug, Clone)]
struct Problem {
    vocab: usize,
    row_stride: usize,
    /// Rows of each sequence; all the same if padded.
    lens: Vec<usize>,
    padded: bool,
    label_alignment: LabelAlignment,
    ignore_index: i64,
    labels: Vec<i64>,
    narrow_labels: bool,
    pairs: PairLayout,
    beta: f64,
    label_smoothing: f64,
    length_normalized: bool,
    normalizer: Option<f64>,
    ref_logps: Option<Vec<f32>>,
    upstream: f32,
    logits: Vec<f32>,
}

#[derive(Debug, Clone)]
enum PairLayout {
    Concatenated,
    Interleaved,
    Indexed(Vec<i32>, Vec<i32>),
}

prop_compose! {
    fn sizes()(
        vocab in prop_oneof![1..40usize, 1..600usize],
        gap in 0..5usize,
        pairs in 1..4usize,
    )(
        lens in prop::collection::vec(0..7usize, 2 * pairs),
        vocab in Just(vocab),
        row_stride in Just(vocab + gap),
        padded in any::<bool>(),
    ) -> (usize, usize, Vec<usize>, bool) {
        let mut lens = lens;
        lens[0] = lens[0].max(1);
        if padded {
            lens = vec![lens[0]; lens.len()];
        }
        (vocab, row_stride, lens, padded)
    }
}

fn problem() -> impl Strategy<Value = Problem> {
    sizes().prop_flat_map(|(vocab, row_stride, lens, padded)| {
        let (rows, sequences) = (lens.iter().sum::<usize>(), lens.len());
        let index = || prop::collection::vec(0..sequences as i32, 1..5);
        let indexed = (index(), index()).prop_map(move |(mut chosen, mut rejected)| {
            let pairs = chosen.len().min(rejected.len());
            chosen.truncate(pairs);
            rejected.truncate(pairs);
            // No pair is of one sequence.
            for (w, l) in chosen.iter().zip(&mut rejected).filter(|(w, l)| *w == *l) {
                *l = (w + 1) % sequences as i32;
            }
            PairLayout::Indexed(chosen, rejected)
        });
        let ignore_index = prop_oneof![Just(-100i64), Just(-1), Just(0)];
        let labels = ignore_index.prop_flat_map(move |ignored| {
            let label = prop_oneof![3 => 0..vocab as i64, 1 => Just(ignored)];
            (Just(ignored), prop::collection::vec(label, rows))
        });
        let layout = (
            labels,
            prop_oneof![Just(LabelAlignment::Aligned), Just(LabelAlignment::NextToken)],
            any::<bool>(),
            prop_oneof![Just(PairLayout::Concatenated), Just(PairLayout::Interleaved), indexed],
        );
        let loss = (
            0.01..5.0f64,
            prop_oneof![Just(0.0), 0.0..=0.5f64],
            any::<bool>(),
            prop::option::of(0.5..10.0f64),
            prop::option::of(prop::collection::vec(-60.0..0.0f32, sequences)),
            -2.0..2.0f32,
        );
        // From nearly uniform rows to those whose softmax is one number; around 0 or far from it.
        let values = (
            any::<u64>(),
            prop_oneof![Just(0.1f32), Just(3.0), Just(1e4)],
            prop_oneof![Just(0.0f32), -1e4..1e4f32],
        );
        (layout, loss, values).prop_map(move |(layout, loss, (seed, spread, center))| {
            let ((ignore_index, labels), label_alignment, narrow_labels, pairs) = layout;
            let (beta, label_smoothing, length_normalized, normalizer, ref_logps, upstream) = loss;
            let uniform = |i| (splitmix(seed, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            Problem {
                vocab,
                row_stride,
                lens: lens.clone(),
                padded,
                label_alignment,
                ignore_index,
                labels,
                narrow_labels,
                pairs,
                beta,
                label_smoothing,
                length_normalized,
                normalizer,
                ref_logps,
                upstream,
                logits: (0..(rows * row_stride) as u64).map(|i| center + spread * uniform(i)).collect(),
            }
        })
    })
}

/// What all three stages of the CPU backend make of a problem.
#[derive(Debug, Clone)]
struct Outputs<T> {
    forward: Forward,
    dlogits: Vec<T>,
}

/// Bits of all outputs, so that they can be compared.
type Bits = (Vec<Vec<u32>>, Vec<u64>);

impl<T: Element> Outputs<T> {
    fn bits(&self) -> Bits {
        let (logps, pairs) = (&self.forward.logps, &self.forward.pairs);
        let forward = [
            &logps.logps,
            &logps.token_logps,
            &logps.logsumexp,
            &logps.logsumexp_residual,
            &pairs.pair_losses,
            &pairs.margins,
            &pairs.coef,
            &vec![pairs.metrics.loss, pairs.metrics.accuracy],
        ];
        (forward.map(|values| bits(values)).to_vec(), self.dlogits.iter().map(|g| g.pattern()).collect())
    }
}

impl Problem {
    fn starts(&self) -> Vec<i32> {
        let ends = self.lens.iter().scan(0, |end, len| {
            *end += *len as i32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// The batch with sequences that begin at `starts`.
    fn batch<'a>(&'a self, starts: &'a [i32], padded: bool) -> HostBatch<'a> {
        let sequences = if padded {
            Sequences::Padded { count: self.lens.len(), len: self.lens[0] }
        } else {
            Sequences::Packed { cu_seqlens: starts, rows: self.labels.len() }
        };
        HostBatch {
            row_stride: self.row_stride,
            pairs: match &self.pairs {
                PairLayout::Concatenated => Pairs::Concatenated,
                PairLayout::Interleaved => Pairs::Interleaved,
                PairLayout::Indexed(chosen, rejected) => Pairs::Indexed { chosen, rejected },
            },
            ignore_index: self.ignore_index,
            ..HostBatch::new(self.vocab, sequences, self.label_alignment)
        }
    }

    /// The (chosen, rejected) sequences of each pair.
    fn pairs(&self) -> Vec<(usize, usize)> {
        let n = self.lens.len() / 2;
        match &self.pairs {
            PairLayout::Concatenated => (0..n).map(|i| (i, n + i)).collect(),
            PairLayout::Interleaved => (0..n).map(|i| (2 * i, 2 * i + 1)).collect(),
            PairLayout::Indexed(chosen, rejected) => {
                chosen.iter().zip(rejected).map(|(&w, &l)| (w as usize, l as usize)).collect()
            }
        }
    }

    /// The label that a row predicts, if it is scored; its sequence ends at `end`.
    fn target(&self, row: usize, end: usize) -> Option<i64> {
        let at = row + usize::from(self.label_alignment == LabelAlignment::NextToken);
        (at < end).then(|| self.labels[at]).filter(|&label| label != self.ignore_index)
    }

    fn loss(&self) -> PairLoss {
        let loss = PairLoss::sigmoid(self.beta).unwrap().with_label_smoothing(self.label_smoothing).unwrap();
        let loss = if self.ref_logps.is_some() { loss } else { loss.without_reference() };
        let loss = if self.length_normalized { loss.with_length_normalization() } else { loss };
        self.normalizer.map_or(loss, |normalizer| loss.with_normalizer(normalizer).unwrap())
    }

    fn with_labels<R>(&self, f: impl FnOnce(Labels<'_>) -> R) -> R {
        if self.narrow_labels {
            let labels: Vec<i32> = self.labels.iter().map(|&label| label as i32).collect();
            f(labels[..].into())
        } else {
            f(self.labels[..].into())
        }
    }

    fn logits<T: Logit>(&self) -> Vec<T> {
        self.logits.iter().map(|&z| T::from_f32(z)).collect()
    }

    fn outputs<T: Logit>(&self, padded: bool) -> Outputs<T> {
        let starts = self.starts();
        self.outputs_of(&self.batch(&starts, padded), &self.logits())
    }

    fn outputs_of<T: Logit>(&self, batch: &HostBatch<'_>, logits: &[T]) -> Outputs<T> {
        self.with_labels(|labels| {
            let mut forward = Forward::default();
            cpu::forward(
                batch,
                logits,
                labels,
                &PairInputs { ref_logps: self.ref_logps.as_deref(), ..PairInputs::NONE },
                &self.loss(),
                &mut forward,
            )
            .unwrap();
            let mut dlogits = vec![T::from_f32(0.0); logits.len()];
            let inputs = BackwardInputs::from(&forward).with_upstream(self.upstream);
            cpu::backward(batch, logits, labels, inputs, &mut dlogits).unwrap();
            Outputs { forward, dlogits }
        })
    }
}

/// The CPU backend against the reference, within the bounds that follow from its arithmetic.
fn agrees_with_the_reference<T: Logit + Element + Into<f64>>(problem: &Problem) -> Judge {
    let starts = problem.starts();
    let batch = problem.batch(&starts, problem.padded);
    let logits = problem.logits::<T>();
    let loss = problem.loss();
    let found = problem.outputs_of(&batch, &logits);
    let (logps, pairs) = (&found.forward.logps, &found.forward.pairs);

    let ref_logps = problem.ref_logps.as_deref().map(widen);
    let upstream = f64::from(problem.upstream);
    let (truth, true_pairs, dlogits) = problem.with_labels(|labels| {
        let truth = reference::logps(&batch, &logits, labels).unwrap();
        let lengths = Some(&truth.scored[..]);
        let pairs = reference::pair_loss(
            &batch,
            &truth.logps,
            lengths,
            &PairInputs { ref_logps: ref_logps.as_deref(), ..PairInputs::NONE },
            &loss,
        )
        .unwrap();
        let dlogits =
            reference::backward(&batch, &logits, labels, &truth.logsumexp, &pairs.coef, upstream).unwrap();
        (truth, pairs, dlogits)
    });

    let mut judge = Judge::default();
    judge.check(logps.status == truth.status, || format!("status {:?} {:?}", logps.status, truth.status));
    judge.check(logps.scored == truth.scored, || "scored".to_string());
    let bounds = CPU.row(problem.vocab, &batch.transform);
    let sequence_of = |row: usize| starts.partition_point(|&start| start as usize <= row) - 1;
    let target = |row: usize| problem.target(row, starts[sequence_of(row) + 1] as usize);
    // Rows that are not scored are exactly 0.
    let of_scored = |row: usize, bound: f64| if target(row).is_some() { bound } else { 0.0 };
    let token = |row: usize| match target(row) {
        Some(_) => bounds.token(truth.logsumexp[row], truth.token_logps[row]),
        None => Uncertain::default(),
    };
    let logsumexp: Vec<f64> = widen(&logps.logsumexp)
        .into_iter()
        .zip(widen(&logps.logsumexp_residual))
        .map(|(value, residual)| value + residual)
        .collect();
    judge.all_close("logsumexp", "row", &logsumexp, &truth.logsumexp, |row| {
        of_scored(row, bounds.logsumexp(truth.logsumexp[row]))
    });
    judge.all_close("token logps", "row", &widen(&logps.token_logps), &truth.token_logps, |row| {
        token(row).error
    });

    let uncertain: Vec<Uncertain> = (0..problem.lens.len())
        .map(|s| CPU.sequence((starts[s] as usize..starts[s + 1] as usize).map(token), truth.logps[s]))
        .collect();
    judge.all_close("logps", "sequence", &widen(&logps.logps), &truth.logps, |s| {
        CPU.logp(truth.logps[s], uncertain[s])
    });

    let inputs = PairInputs { ref_logps: ref_logps.as_deref(), ..PairInputs::NONE };
    let (loss, scored) = (&loss, &truth.scored[..]);
    let arguments = PairArguments { batch: &batch, loss, inputs, logps: &truth.logps, scored };
    let of_pairs = CPU.pair_loss(&arguments, &uncertain, 0.0);
    for (quantity, found, expected, bounds) in [
        ("chosen", &pairs.chosen_rewards, &true_pairs.chosen_rewards, &of_pairs.chosen_rewards),
        ("rejected", &pairs.rejected_rewards, &true_pairs.rejected_rewards, &of_pairs.rejected_rewards),
        ("margins", &pairs.margins, &true_pairs.margins, &of_pairs.margins),
        ("pair losses", &pairs.pair_losses, &true_pairs.pair_losses, &of_pairs.pair_losses),
        ("coef", &pairs.coef, &true_pairs.coef, &of_pairs.coef),
    ] {
        judge.all_close(quantity, quantity, &widen(found), expected, |i| bounds[i]);
    }
    let (metrics, true_metrics) = (&pairs.metrics, &true_pairs.metrics);
    for (quantity, found, expected, bound) in [
        ("loss", metrics.loss, true_metrics.loss, of_pairs.metrics.loss),
        ("mean chosen", metrics.chosen_reward, true_metrics.chosen_reward, of_pairs.metrics.chosen_reward),
        (
            "mean rejected",
            metrics.rejected_reward,
            true_metrics.rejected_reward,
            of_pairs.metrics.rejected_reward,
        ),
        ("mean margin", metrics.margin, true_metrics.margin, of_pairs.metrics.margin),
    ] {
        judge.close(quantity, || "metrics".to_string(), f64::from(found), expected, bound);
    }

    for row in 0..problem.labels.len() {
        let (s, target) = (sequence_of(row), target(row));
        let coef =
            Coefficient { value: true_pairs.coef[s] * upstream, error: of_pairs.coef[s] * upstream.abs() };
        let gradient = bounds.gradient(T::DTYPE, truth.logsumexp[row], coef);
        for v in 0..problem.vocab {
            let i = row * problem.row_stride + v;
            let (found, expected): (f64, f64) = (found.dlogits[i].into(), dlogits[i]);
            let error = target.map_or(0.0, |y| gradient.element(logits[i].into(), y == v as i64));
            let bound = stored(T::DTYPE, expected, error);
            judge.close("dlogits", || format!("row {row}, column {v}"), found, expected, bound);
        }
    }
    judge
}

/// Runs a generic property for every type that logits can have.
macro_rules! for_every_dtype {
    ($property:ident, $problem:expr) => {
        $property::<f32>($problem)?;
        $property::<f16>($problem)?;
        $property::<bf16>($problem)?;
    };
}

fn packed_equals_padded<T: Logit + Element>(problem: &Problem) -> Result<(), TestCaseError> {
    if problem.padded {
        prop_assert_eq!(problem.outputs::<T>(true).bits(), problem.outputs::<T>(false).bits());
    }
    Ok(())
}

/// Ragged sequences, padded with ignored rows of NaN: the same log-probs, and the same gradients in the rows there are.
fn ragged_equals_filled_up<T: Logit + Element>(problem: &Problem) -> Result<(), TestCaseError> {
    let ragged = problem.outputs::<T>(false);

    let longest = *problem.lens.iter().max().unwrap();
    let starts = problem.starts();
    let (mut labels, mut logits) = (Vec::new(), Vec::new());
    let mut places = Vec::new();
    for (s, &len) in problem.lens.iter().enumerate() {
        for t in 0..longest {
            let row = starts[s] as usize + t;
            if t < len {
                places.push((row, s * longest + t));
                labels.push(problem.labels[row]);
                logits.extend_from_slice(&problem.logits[row * problem.row_stride..][..problem.row_stride]);
            } else {
                labels.push(problem.ignore_index);
                logits.extend(std::iter::repeat_n(f32::NAN, problem.row_stride));
            }
        }
    }
    let filled =
        Problem { lens: vec![longest; problem.lens.len()], padded: true, labels, logits, ..problem.clone() };
    let filled = filled.outputs::<T>(true);

    prop_assert_eq!(bits(&ragged.forward.logps.logps), bits(&filled.forward.logps.logps));
    prop_assert_eq!(bits(&ragged.forward.pairs.coef), bits(&filled.forward.pairs.coef));
    let gradient = |outputs: &Outputs<T>, row: usize| -> Vec<u64> {
        let row = &outputs.dlogits[row * problem.row_stride..][..problem.vocab];
        row.iter().map(|g| g.pattern()).collect()
    };
    for (row, at) in places {
        prop_assert_eq!(gradient(&ragged, row), gradient(&filled, at));
    }
    Ok(())
}

/// A row's bits do not change with its neighbours: every sequence by itself, in buffers of its own.
fn rows_stand_alone<T: Logit + Element>(problem: &Problem) -> Result<(), TestCaseError> {
    let starts = problem.starts();
    let logits = problem.logits::<T>();
    let together = problem.outputs_of(&problem.batch(&starts, problem.padded), &logits);
    let logps = &together.forward.logps;
    for s in (0..problem.lens.len()).filter(|&s| problem.lens[s] > 0) {
        let rows = starts[s] as usize..starts[s + 1] as usize;
        let elements = rows.start * problem.row_stride..rows.end * problem.row_stride;
        let batch = HostBatch {
            pairs: Pairs::None,
            sequences: Sequences::Padded { count: 1, len: problem.lens[s] },
            ..problem.batch(&starts, true)
        };
        let (labels, logits) = (problem.labels[rows.clone()].into(), &logits[elements.clone()]);
        let mut alone = Logps::default();
        cpu::logps(&batch, logits, labels, &mut alone).unwrap();
        prop_assert_eq!(bits(&alone.logps), bits(&logps.logps[s..=s]));
        prop_assert_eq!(bits(&alone.token_logps), bits(&logps.token_logps[rows.clone()]));
        prop_assert_eq!(bits(&alone.logsumexp), bits(&logps.logsumexp[rows.clone()]));
        prop_assert_eq!(bits(&alone.logsumexp_residual), bits(&logps.logsumexp_residual[rows]));

        let mut dlogits = vec![T::from_f32(0.0); logits.len()];
        let coef = &together.forward.pairs.coef[s..=s];
        cpu::backward(
            &batch,
            logits,
            labels,
            BackwardInputs::new(&alone, coef).with_upstream(problem.upstream),
            &mut dlogits,
        )
        .unwrap();
        let pattern = |dlogits: &[T]| -> Vec<u64> { dlogits.iter().map(|g| g.pattern()).collect() };
        prop_assert_eq!(pattern(&dlogits), pattern(&together.dlogits[elements]));
    }
    Ok(())
}

/// In place and out of place give the same bits, and neither touches the gaps between rows.
fn in_place_equals_out_of_place<T: Logit + Element>(problem: &Problem) -> Result<(), TestCaseError> {
    let starts = problem.starts();
    let batch = problem.batch(&starts, problem.padded);
    let logits = problem.logits::<T>();
    let apart = problem.outputs_of(&batch, &logits);
    let mut within = logits.clone();
    problem.with_labels(|labels| {
        let inputs = BackwardInputs::from(&apart.forward).with_upstream(problem.upstream);
        cpu::backward_in_place(&batch, &mut within, labels, inputs).unwrap();
    });
    for (i, (apart, within)) in apart.dlogits.iter().zip(&within).enumerate() {
        if i % problem.row_stride < problem.vocab {
            prop_assert_eq!(apart.pattern(), within.pattern());
        } else {
            prop_assert_eq!(apart.pattern(), 0, "the gaps of outputs() held 0");
            prop_assert_eq!(within.pattern(), logits[i].pattern());
        }
    }
    Ok(())
}

fn threads_do_not_matter<T: Logit + Element>(problem: &Problem) -> Result<(), TestCaseError> {
    let [one, four] = [1, 4].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| problem.outputs::<T>(problem.padded).bits())
    });
    prop_assert_eq!(one, four);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn cpu_agrees_with_the_reference(problem in problem()) {
        for judge in [
            agrees_with_the_reference::<f32>(&problem),
            agrees_with_the_reference::<f16>(&problem),
            agrees_with_the_reference::<bf16>(&problem),
        ] {
            prop_assert!(judge.failures.is_empty(), "{}", judge.failures.join("\n"));
        }
    }

    #[test]
    fn layouts_do_not_matter(problem in problem()) {
        for_every_dtype!(packed_equals_padded, &problem);
        for_every_dtype!(ragged_equals_filled_up, &problem);
    }

    #[test]
    fn neighbours_do_not_matter(problem in problem()) {
        for_every_dtype!(rows_stand_alone, &problem);
    }

    #[test]
    fn the_place_of_the_gradient_does_not_matter(problem in problem()) {
        for_every_dtype!(in_place_equals_out_of_place, &problem);
    }

    /// Σ_v (1[v = y] − p[v]) = 0, up to the rounding of the V terms.
    #[test]
    fn gradient_rows_sum_to_zero(problem in problem()) {
        let outputs = problem.outputs::<f32>(problem.padded);
        for (row, dlogits) in outputs.dlogits.chunks(problem.row_stride).enumerate() {
            let sum: f64 = dlogits.iter().map(|&g| f64::from(g)).sum();
            let size: f64 = dlogits.iter().map(|&g| f64::from(g).abs()).sum();
            let largest = outputs.forward.pairs.coef.iter().fold(0.0f32, |a, c| c.abs().max(a)) * problem.upstream.abs();
            let softmax = CPU.row(problem.vocab, &Transform::default()).softmax(DType::F32, 0.0);
            let underflow = problem.vocab as f64 * f64::from(f32::from_bits(1));
            let bound = f64::from(largest) * softmax + UNIT_F32 * size + underflow;
            prop_assert!(sum.abs() <= bound, "row {row}: {sum:e}, allowed {bound:e}");
        }
    }

    /// The coefficients of a pair are opposite, to the bit, as long as lengths do not come in.
    #[test]
    fn coefficients_are_opposite(problem in problem()) {
        if !problem.length_normalized && !matches!(problem.pairs, PairLayout::Indexed(..)) {
            let coef = problem.outputs::<f32>(problem.padded).forward.pairs.coef;
            for (w, l) in problem.pairs() {
                prop_assert_eq!(coef[w], -coef[l]);
            }
        }
    }

    /// With chosen and rejected exchanged, rewards change places, margins change sign, the loss grows by
    /// (1 − 2ε)u, and a slope and its opposite's make up 1 − 2ε.
    #[test]
    fn chosen_and_rejected_change_places(
        pair in (-50.0..0.0f32, -50.0..0.0f32),
        ref_logps in (-50.0..0.0f32, -50.0..0.0f32),
        beta in 0.01..2.0f64,
        label_smoothing in 0.0..=0.5f64,
    ) {
        let loss = PairLoss::sigmoid(beta).unwrap().with_label_smoothing(label_smoothing).unwrap();
        let batch = HostBatch { pairs: Pairs::Indexed { chosen: &[0], rejected: &[1] }, ..HostBatch::for_pair_loss(2) };
        let swapped = HostBatch { pairs: Pairs::Indexed { chosen: &[1], rejected: &[0] }, ..batch };
        let [one, other] = [batch, swapped].map(|batch| {
            let mut out = PairOutputs::default();
            let (logps, ref_logps) = ([pair.0, pair.1], [ref_logps.0, ref_logps.1]);
            cpu::pair_loss(&batch, &logps, None, &PairInputs::reference(&ref_logps), &loss, &mut out).unwrap();
            out
        });
        prop_assert_eq!(&one.chosen_rewards, &other.rejected_rewards);
        prop_assert_eq!(&one.rejected_rewards, &other.chosen_rewards);
        prop_assert_eq!(one.margins[0], -other.margins[0]);

        let asymmetry = 1.0 - 2.0 * label_smoothing;
        let (a, b, u) = (f64::from(one.pair_losses[0]), f64::from(other.pair_losses[0]), f64::from(one.margins[0]));
        prop_assert!((b - a - asymmetry * u).abs() <= UNIT_F32 * (a + b + u.abs()));
        let (a, b) = (f64::from(one.coef[0]), f64::from(other.coef[1]));
        prop_assert!((a + b + beta * asymmetry).abs() <= UNIT_F32 * (a.abs() + b.abs()) + 1e-15 * beta);
    }
}

proptest! {
    // Thread pools are slow to build.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_number_of_threads_does_not_matter(problem in problem()) {
        for_every_dtype!(threads_do_not_matter, &problem);
    }
}

/// Enough rows and columns for the work to be cut into several pieces, whatever the number of threads.
#[test]
fn the_number_of_threads_does_not_matter_when_there_is_work_for_many() {
    let (vocab, rows) = (5000, 64);
    let problem = Problem {
        vocab,
        row_stride: vocab + 1,
        lens: vec![16; 4],
        padded: true,
        label_alignment: LabelAlignment::Aligned,
        ignore_index: -100,
        labels: (0..rows).map(|row| (row * 71) % vocab as i64).collect(),
        narrow_labels: false,
        pairs: PairLayout::Concatenated,
        beta: 0.1,
        label_smoothing: 0.0,
        length_normalized: false,
        normalizer: None,
        ref_logps: None,
        upstream: 1.0,
        logits: (0..rows as u64 * (vocab as u64 + 1)).map(|i| (splitmix(1, i) >> 40) as f32 * 1e-6).collect(),
    };
    threads_do_not_matter::<f32>(&problem).unwrap();
}
