//! What stands around the loss: what skips, what overflows, what must not change a bit.

use dpo_kernels::{LabelAlignment, Logit, MetricsLevel, PairLoss, Transform};

use crate::case::{Case, Mask, PairKind, Spec};
use crate::executor::{Executor, Outcome};
use crate::expected::Expected;

/// Rows whose coefficient is 0, or no larger than the threshold, are zeros, whatever their logits hold; NaN is never
/// skipped.
pub fn skipped_rows_are_not_read<T: Logit>(executor: &mut impl Executor) {
    for (vocab, gradient_phase) in [(33, None), (1003, Some(2)), (5000, None)] {
        let gradient_phase = gradient_phase.map(|_| size_of::<T>());
        let spec = Spec { threshold: 1e-3, gradient_phase, row_stride: vocab + 1, ..Spec::plain(vocab) };
        let mut case = Case::<T>::draw(spec);
        case.own_coef = Some(vec![0.0, -1e-3, 2e-3, f32::NAN]);
        // Not read in `backward`: their NaN would show.
        for row in 0..6 {
            case.row_mut(row).fill(T::from_f32(f32::NAN));
        }
        let outcome = executor.run(&case);
        for row in 0..12 {
            let gradient = &outcome.dlogits[row * (vocab + 1)..][..vocab];
            let right = gradient.iter().all(|d| match row / 3 {
                0 | 1 => d.to_f32().to_bits() == 0,
                2 => d.to_f32().is_finite(),
                _ => d.to_f32().is_nan(),
            });
            assert!(right, "row {row} of {vocab}");
            assert!(row / 3 != 2 || gradient.iter().any(|d| d.to_f32() != 0.0), "row {row} was skipped");
        }
        assert_eq!(outcome.gradient.nonfinite_row, Some(9));
    }
}

/// The first row with an infinity is named, and no other; what just fits is not.
pub fn overflow_is_reported<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for vocab in [33, 1003, 9000] {
        let spec = Spec { mask: Mask::PromptAndPadding, gradient_phase: Some(0), ..Spec::plain(vocab) };
        for (own_coef, upstream) in [
            ([1.0, -1.0, 0.5, 1.0], 60_000.0),
            ([1.0, -1.0, 2.0, 1.0], 60_000.0),
            ([1.0, -3.0, 2.0, 1.0], 1e38),
            ([1.0, -4.0, 2.0, 1.0], 1e38),
        ] {
            let mut case = Case::<T>::draw(Spec { upstream, ..spec });
            case.own_coef = Some(own_coef.to_vec());
            let outcome = executor.run(&case);
            let found = outcome.dlogits.iter().position(|d| !d.to_f32().is_finite()).map(|at| at / vocab);
            assert_eq!(outcome.gradient.nonfinite_row, found, "{} {:?}", executor.name(), case.spec);
        }
    }
}

/// Metrics are beside the point: asking for them changes no bit of the rest.
pub fn metrics_change_nothing_else<T: Logit>(executor: &mut impl Executor) {
    for vocab in [7, 33, 1000, 5003] {
        for transform in [
            Transform::default(),
            Transform { scale: 1.25, ..Transform::default() },
            Transform { softcap: Some(5.0), valid_vocab: Some(vocab - 1), ..Transform::default() },
        ] {
            let mut case = Case::<T>::draw(Spec { transform, ..Spec::plain(vocab) });
            let plain = executor.run(&case);
            for metrics in [MetricsLevel::Entropy, MetricsLevel::All] {
                case.spec.metrics = metrics;
                let mut with = executor.run(&case);
                assert!(with.logps.metrics.take().is_some());
                assert_eq!(comparable(&plain), comparable(&with), "{metrics:?}, {transform:?}, {vocab}");
            }
        }
    }
}

/// Bits of everything.
fn comparable<T: Logit>(outcome: &Outcome<T>) -> (String, Vec<u32>) {
    let gradient = outcome.dlogits.iter().map(|d| d.to_f32().to_bits()).collect();
    (format!("{:?} {:?} {:?}", outcome.logps, outcome.pairs, outcome.gradient), gradient)
}

/// A padded vocabulary gives the bits of one without padding, whatever the padding holds.
pub fn padded_vocabulary<T: Logit>(executor: &mut impl Executor, metrics: MetricsLevel) {
    for (vocab, valid) in [(64, 33), (1024, 1000), (1024, 1), (5003, 5000)] {
        let row_stride = vocab + 2;
        let plain = Case::<T>::draw(Spec { row_stride, metrics, ..Spec::plain(valid) });
        let mut padded = plain.clone();
        padded.spec.vocab = vocab;
        padded.spec.transform.valid_vocab = Some(valid);
        // Case::draw leaves NaN behind a row: here that is padding, but for the last row, which must be as long.
        let len = (padded.rows() - 1) * row_stride + vocab;
        padded.logits.resize(len, T::from_f32(f32::NAN));
        let (one, mut other) = (executor.run(&plain), executor.run(&padded));
        for (row, gradient) in other.dlogits.chunks_mut(row_stride).enumerate() {
            assert!(gradient[valid..vocab].iter().all(|d| d.to_f32() == 0.0), "row {row}");
            // What plain leaves there.
            gradient[valid..vocab].fill(T::from_f32(f32::NAN));
        }
        other.dlogits.truncate(one.dlogits.len());
        assert_eq!(comparable(&one), comparable(&other), "{vocab}, {valid} valid");

        padded.labels.set(10, valid as i64);
        assert_eq!(executor.run(&padded).logps.status.bad_label, Some(10));
    }
}

/// Sequences without rows, or without scored ones, add nothing to the means; where no row at all is scored, they are 0.
pub fn means_of_empty_sequences<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for mask in [Mask::EmptySequence, Mask::Everything] {
        let spec = Spec { sequences: 10, packed: true, mask, metrics: MetricsLevel::All, ..Spec::plain(33) };
        let case = Case::<T>::draw(spec);
        Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
    }
}

/// Sequences of more rows than a block has threads, whose sums and tails take several rounds of all of its warps.
pub fn long_sequences<T: Logit + Into<f64>>(executor: &mut impl Executor, has_metrics: bool) {
    for (packed, pairs, alignment, ld_alpha) in [
        (false, PairKind::Concatenated, LabelAlignment::Aligned, 0.3),
        (true, PairKind::Interleaved, LabelAlignment::NextToken, 0.5),
        (true, PairKind::Concatenated, LabelAlignment::Aligned, 1.0),
    ] {
        let mask = Mask::Holes;
        let metrics = if has_metrics && packed { MetricsLevel::All } else { MetricsLevel::None };
        let spec = Spec { longest: 600, packed, pairs, alignment, mask, ld_alpha, metrics, ..Spec::plain(5) };
        let case = Case::<T>::draw(spec);
        Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
    }
}

/// More pairs and more sequences than a block has threads.
pub fn many_pairs<T: Logit + Into<f64>>(executor: &mut impl Executor, has_metrics: bool) {
    let named = |name: &str| PairLoss::named(name, 0.5f32).expect("a name of the table");
    for (pairs, loss) in [
        (PairKind::Concatenated, named("aot")),
        (PairKind::Indexed, named("sigmoid")),
        (PairKind::Unpaired, named("kto").with_baseline(0.5).expect("a valid baseline")),
    ] {
        let (packed, mask) = (true, Mask::EmptySequence);
        let metrics =
            if has_metrics && pairs == PairKind::Indexed { MetricsLevel::All } else { MetricsLevel::None };
        let spec = Spec { sequences: 1100, longest: 2, packed, pairs, mask, loss, metrics, ..Spec::plain(5) };
        let case = Case::<T>::draw(spec);
        Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
    }
}

/// Of equal logits the first is the most probable; and metrics of rows that are not finite are what they are.
pub fn ties_and_nonfinite_metrics<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    let vocab = 1003;
    for softcap in [None, Some(6.0)] {
        let transform = Transform { softcap, ..Transform::default() };
        let mut case = Case::<T>::draw(Spec { metrics: MetricsLevel::All, transform, ..Spec::plain(vocab) });
        for (row, (first, second, label)) in [
            (0, 1, 0),
            (0, 1, 1),
            (500, 501, 500),
            (500, 501, 501),
            (1, 1002, 1002),
            (1, 1002, 1),
            (700, 1002, 700),
        ]
        .into_iter()
        .enumerate()
        {
            let logits = case.row_mut(row);
            logits[first] = T::from_f32(9.0);
            logits[second] = T::from_f32(9.0);
            case.labels.set(row, label);
        }
        case.row_mut(7)[3] = T::from_f32(f32::NAN);
        case.row_mut(8)[900] = T::from_f32(f32::INFINITY);
        case.row_mut(9).fill(T::from_f32(f32::NEG_INFINITY));
        case.labels.set(9, 0);
        case.row_mut(10)[..900].fill(T::from_f32(f32::NEG_INFINITY));
        case.labels.set(11, vocab as i64);
        let outcome = executor.run(&case);
        let correct = &outcome.logps.metrics.as_ref().expect("asked for").correct;
        assert_eq!(correct[..7], [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        for metrics in [MetricsLevel::All, MetricsLevel::Entropy] {
            case.spec.metrics = metrics;
            Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
        }
    }
}
