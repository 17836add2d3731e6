//! Objectives with the entropies of rows in them: their part of the gradient.

use dpo_kernels::{Logit, MetricsLevel, Transform};

use crate::case::{Case, Spec};
use crate::executor::Executor;
use crate::expected::Expected;

/// A case whose log-probs have no gradient of their own, so that nothing covers that of the entropies.
fn entropies_alone<T: Logit>(vocab: usize, transform: Transform) -> Case<T> {
    let spec = Spec {
        metrics: MetricsLevel::Entropy,
        entropy_coef: true,
        transform,
        row_stride: vocab + 1,
        ..Spec::plain(vocab)
    };
    let mut case = Case::<T>::draw(spec);
    case.own_coef = Some(vec![0.0; spec.sequences]);
    case
}

/// Against the reference: plain rows, rows with masked tokens, whose p log p is 0, and rows that are all but certain. Rows
/// whose coefficient is 0 are zeros.
pub fn gradients<T: Logit + Into<f64>>(executor: &mut impl Executor) {
    for vocab in [2, 33, 1003, 9000] {
        for transform in [
            Transform::default(),
            Transform { scale: 0.7, ..Transform::default() },
            Transform { softcap: Some(5.0), valid_vocab: Some(vocab - 1), ..Transform::default() },
        ] {
            let mut case = entropies_alone::<T>(vocab, transform);
            let targets = case.targets();
            // A soft cap makes a number of −∞.
            if transform.softcap.is_none() {
                for row in [1, 2] {
                    let label = targets[row].expect("all rows are scored");
                    let masked = case.row_mut(row).iter_mut().enumerate().skip(1).step_by(2);
                    masked
                        .filter(|&(column, _)| column != label)
                        .for_each(|(_, z)| *z = T::from_f32(f32::NEG_INFINITY));
                }
            }
            case.row_mut(4)[0] = T::from_f32(60.0);
            let coef = case.entropy_coef.as_mut().expect("it was asked for");
            coef[..6].copy_from_slice(&[0.5, -0.75, 1.0, 0.0, 2.0, -1.0]);
            let outcome = executor.run(&case);
            Expected::of(&case).check(&executor.name(), &case, &outcome);
            let zeros = &outcome.dlogits[3 * (vocab + 1)..][..vocab];
            assert!(zeros.iter().all(|d| d.to_f32().to_bits() == 0), "{vocab}, {transform:?}");
        }
    }
}

/// A coefficient that is not finite is named, and is not skipped.
pub fn trouble<T: Logit>(executor: &mut impl Executor) {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut case = entropies_alone::<T>(1003, Transform::default());
        let coef = case.entropy_coef.as_mut().expect("it was asked for");
        coef.fill(0.0);
        coef[7] = bad;
        let outcome = executor.run(&case);
        assert_eq!(outcome.gradient.nonfinite_row, Some(7), "{}, {bad}", executor.name());
    }
}
