//! Rows in which the label is all but certain: log p and 1 − p are small numbers of their own, and not what a subtraction
//! from a number near 1 leaves of them.

use dpo_kernels::{IGNORE_INDEX, Logit, Transform, reference};

use crate::case::{Case, Spec};
use crate::executor::{Executor, Factored};
use crate::tolerance::precision::{UNIT_F32, rounding};

/// Logits of the other tokens are at most this.
const OTHERS: f32 = 2.0;

/// How far the label's logit is above 0 in each of the rows; at 75, 1 − p is about 1e-30 times the vocabulary.
const ABOVE: [f32; 6] = [0.5, 5.0, 18.0, 40.0, 60.0, 75.0];

/// One row for each of [`ABOVE`], with a coefficient of 1.
fn case<T: Logit>(vocab: usize, transform: Transform) -> Case<T> {
    let sequences = ABOVE.len();
    let plain = Spec::plain(vocab);
    let mut case = Case::<T>::draw(Spec { sequences, longest: 1, scale: OTHERS, transform, ..plain });
    case.own_coef = Some(vec![1.0; sequences]);
    for (row, above) in ABOVE.into_iter().enumerate() {
        let label = case.targets()[row].expect("all rows are scored");
        case.row_mut(row)[label] = T::from_f32(above);
    }
    case
}

fn check<T: Logit + Into<f64>>(executor: &mut impl Executor, case: &Case<T>) {
    let (batch, labels) = (case.batch(), case.labels());
    let exact = reference::logps(&batch, &case.logits, labels).unwrap();
    let ones = vec![1.0; case.rows()];
    let gradient = reference::backward(&batch, &case.logits, labels, &exact.logsumexp, &ones, 1.0).unwrap();
    let outcome = executor.run(case);
    let row_of_case = outcome.precision.row(batch.columns(), &batch.transform);
    let who = format!("{}, {}, {} tokens", executor.name(), T::DTYPE.name(), case.spec.vocab);
    for (row, target) in case.targets().into_iter().enumerate() {
        let at = row * case.spec.row_stride + target.expect("all rows are scored");
        let near = |what: &str, found: f64, exact: f64, bound: f64| {
            let error = (found - exact).abs();
            assert!(
                error <= bound,
                "{who}: {what} of row {row} is {found:e} for {exact:e}, not within {bound:e}"
            );
        };
        let (logp, rest) = (exact.token_logps[row], gradient[at]);
        assert!(logp < 0.0 && rest > 0.0);
        let bound = row_of_case.token(exact.logsumexp[row], logp).error;
        assert!(bound < 1e-4 * -logp + 1e-44, "{who}: {bound:e} is no relative error of {logp:e}");
        near("the log-prob", outcome.logps.token_logps[row].into(), logp, bound);
        // Of logsumexp, the residual and what is left of the logit are rounded, and the former is multiplied twice more. A
        // scaled logit is itself rounded in logsumexp, so that the residual is as large as that and rounded as such.
        let scaled = case.spec.transform.scale != 1.0;
        let kept = if scaled { 4.0 * f64::from(ABOVE[row]) * UNIT_F32 * UNIT_F32 } else { 0.0 };
        let of_gradient = (outcome.precision.coef + 4.0) * UNIT_F32;
        let error = rest * (row_of_case.others(-logp.exp_m1()) + of_gradient) + kept;
        near("the gradient at the label", outcome.dlogits[at].into(), rest, error + rounding(T::DTYPE, rest));
    }
    assert!(outcome.logps.status.is_clean());
}

/// What a subtraction would lose is there, to a relative error.
pub fn one_minus_p_is_not_a_subtraction<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for vocab in [2, 9, 300, 5003] {
        for scale in [1.0, 0.7] {
            let case = case::<T>(vocab, Transform { scale, ..Transform::default() });
            check(executor, &case);
            check(&mut Factored(executor), &case);
        }
    }
}

/// Where nothing else has probability, log p and the gradient are exactly 0, and nothing is wrong.
pub fn a_certain_label_is_exactly_0<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for (vocab, label) in [(1, -3.5), (1, 1e4), (9, 20.0), (9, -7.0), (5003, 0.25)] {
        let mut case = Case::<T>::draw(Spec { longest: 1, ..Spec::plain(vocab) });
        case.own_coef = Some(vec![-0.5; case.spec.sequences]);
        for row in 0..case.rows() {
            let target = case.targets()[row].expect("all rows are scored");
            case.row_mut(row).fill(T::from_f32(f32::NEG_INFINITY));
            case.row_mut(row)[target] = T::from_f32(label);
        }
        let exact = |outcome: crate::executor::Outcome<T>| {
            let who = format!("{}: a logit of {label} alone among {vocab}", T::DTYPE.name());
            assert!(outcome.logps.token_logps.iter().all(|&logp| logp == 0.0), "{who}");
            assert!(outcome.dlogits.iter().all(|dlogit| dlogit.to_f32() == 0.0), "{who}");
            assert!(outcome.logps.status.is_clean(), "{who}: {:?}", outcome.logps.status);
        };
        exact(executor.run(&case));
        exact(executor.factored(&case));
    }
}

/// An infinite logit of the label is not a certain label: its log-prob is NaN, and the row is reported.
pub fn an_infinite_label_is_not_certain<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for vocab in [1, 9, 5003] {
        let mut case = Case::<T>::draw(Spec { longest: 1, ..Spec::plain(vocab) });
        let target = case.targets()[2].expect("all rows are scored");
        case.row_mut(2)[target] = T::from_f32(f32::INFINITY);
        case.labels.set(3, IGNORE_INDEX);
        for outcome in [executor.run(&case), executor.factored(&case)] {
            assert!(outcome.logps.token_logps[2].is_nan());
            assert_eq!(outcome.logps.status.nonfinite_row, Some(2));
            let at = 2 * case.spec.row_stride + target;
            assert!(outcome.dlogits[at].to_f32().is_nan());
        }
    }
}
