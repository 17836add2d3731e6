//! Data that cannot be scored: nothing is hidden, nothing else suffers.

use dpo_kernels::{DType, Logit};

use crate::case::{Case, Spec};
use crate::executor::Executor;
use crate::expected::Expected;

/// A label out of range makes its own pair NaN, is named in the status, and leaves the other pairs as they were.
pub fn bad_labels<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for vocab in [1, 33, 4096] {
        for bad in [vocab as i64, i64::from(i32::MAX), -1, -99] {
            let mut case = Case::<T>::draw(Spec { vocab, ..Spec::plain(vocab) });
            let healthy = executor.run(&case);
            // Row 10 is in the last of four sequences: the rejected one of pair 1.
            case.labels.set(10, bad);
            let outcome = executor.run(&case);
            let status = outcome.logps.status;
            assert_eq!((status.bad_label, status.nonfinite_row), (Some(10), Some(10)), "label {bad}");
            assert!(outcome.logps.token_logps[10].is_nan() && outcome.logps.logsumexp[10].is_nan());
            assert!(outcome.pairs.metrics.loss.is_nan());
            assert!(outcome.pairs.pair_losses[1].is_nan());
            assert_eq!(outcome.pairs.pair_losses[0].to_bits(), healthy.pairs.pair_losses[0].to_bits());
            // Sequences 1 and 3 are the spoilt pair: their gradients are NaN; the others' are as before.
            for (at, value) in outcome.dlogits.iter().enumerate() {
                let sequence = at / vocab / 3;
                if sequence % 2 == 1 {
                    assert!(value.to_f32().is_nan(), "dlogits[{at}] hides a bad label");
                } else {
                    assert_eq!(value.to_f32().to_bits(), healthy.dlogits[at].to_f32().to_bits());
                }
            }
            // Where the caller has the coefficients, the row itself must tell.
            let without_coef = executor.factored(&case).dlogits;
            assert!(
                without_coef[10 * vocab..][..vocab].iter().all(|value| value.to_f32().is_nan()),
                "the gradient of row 10 hides label {bad}"
            );
        }
    }
}

/// NaN and infinities, on and off the target, in every lane's reach: as the f64 reference has them.
pub fn nonfinite_logits<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    let vocab = 1003;
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 1, 500, 1002] {
            for on_target in [false, true] {
                let mut case = Case::<T>::draw(Spec { row_stride: vocab + 1, ..Spec::plain(vocab) });
                case.labels.set(4, if on_target { at as i64 } else { (at as i64 + 7) % vocab as i64 });
                case.row_mut(4)[at] = T::from_f32(value);
                Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
            }
        }
    }
    let mut case = Case::<T>::draw(Spec::plain(vocab));
    case.row_mut(7).fill(T::from_f32(f32::NEG_INFINITY));
    Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
}

/// Masks are often the lowest finite value, and logits may all be large: both are ordinary numbers.
pub fn large_logits<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    let (vocab, scored) = (257, 100);
    for (fill, rest) in [(lowest::<T>(), 2.0), (10_000.0, 10_000.0), (-10_000.0, 10_000.0)] {
        let mut case = Case::<T>::draw(Spec::plain(vocab));
        for row in 0..case.rows() {
            let logits = case.row_mut(row);
            logits.fill(T::from_f32(fill));
            logits[..scored].fill(T::from_f32(rest));
            case.labels.set(row, (row % scored) as i64);
        }
        Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
    }
}

/// A row of one value only is uniform, however large the value: by closed form, since 3·10³⁸ + ln V is 3·10³⁸ even in
/// the reference's f64.
pub fn uniform_rows<T: Logit>(executor: &mut impl Executor) {
    let vocab = 257usize;
    for value in [0.0, lowest::<T>(), -lowest::<T>()] {
        let mut case = Case::<T>::draw(Spec::plain(vocab));
        case.logits.fill(T::from_f32(value));
        let outcome = executor.run(&case);
        let ln_vocab = (vocab as f32).ln();
        for logp in &outcome.logps.token_logps {
            assert!((logp + ln_vocab).abs() < 4.0 * f32::EPSILON * ln_vocab, "{value:e}: logp {logp}");
        }
        let targets = case.targets();
        for (at, dlogit) in outcome.dlogits.iter().enumerate() {
            let row = at / vocab;
            let one = if targets[row] == Some(at % vocab) { 1.0 } else { 0.0 };
            let exact = outcome.pairs.coef[row / 3] * (one - 1.0 / vocab as f32);
            let bound = exact.abs() * if T::DTYPE == DType::BF16 { 5e-3 } else { 1e-3 } + 1e-6;
            assert!((dlogit.to_f32() - exact).abs() < bound, "{value:e}: dlogits[{at}] {}", dlogit.to_f32());
        }
    }
}

/// The lowest finite value, or near it where that would not be a round number of the dtype.
fn lowest<T: Logit>() -> f32 {
    match T::DTYPE {
        DType::F16 => -65504.0,
        DType::F32 | DType::BF16 => T::from_f32(-3.38e38).to_f32(),
    }
}
