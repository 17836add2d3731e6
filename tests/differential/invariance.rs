//! What must not change a bit.

use dpo_kernels::{Logit, PairLoss};

use crate::case::{Case, Mask, Spec};
use crate::executor::{Executor, Outcome};

/// Vocabularies that exercise tails, one warp and many, and rows at every phase.
const VOCABS: [usize; 4] = [7, 33, 1000, 5003];

fn spec(vocab: usize) -> Spec {
    // The normaliser is fixed, so that coefficients do not depend on the number of pairs.
    let loss = PairLoss::sigmoid(0.1f32).unwrap().with_normalizer(1.0).unwrap();
    Spec { sequences: 6, longest: 5, mask: Mask::PromptAndPadding, loss, ..Spec::plain(vocab) }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bits of a gradient, row by row, without what lies between the rows.
fn gradient_bits<T: Logit>(case: &Case<T>, outcome: &Outcome<T>) -> Vec<Vec<u32>> {
    let row = |row: usize| {
        let start = row * case.spec.row_stride;
        outcome.dlogits[start..start + case.spec.vocab].iter().map(|value| value.to_f32().to_bits()).collect()
    };
    (0..case.rows()).map(row).collect()
}

fn assert_same<T: Logit>(case: &Case<T>, one: &Outcome<T>, other_case: &Case<T>, other: &Outcome<T>) {
    assert_eq!(bits(&one.logps.token_logps), bits(&other.logps.token_logps), "{:?}", other_case.spec);
    assert_eq!(bits(&one.logps.logsumexp), bits(&other.logps.logsumexp), "{:?}", other_case.spec);
    assert_eq!(bits(&one.logps.logps), bits(&other.logps.logps), "{:?}", other_case.spec);
    assert_eq!(bits(&one.pairs.pair_losses), bits(&other.pairs.pair_losses), "{:?}", other_case.spec);
    assert_eq!(bits(&one.pairs.coef), bits(&other.pairs.coef), "{:?}", other_case.spec);
    assert_eq!(one.pairs.metrics.loss.to_bits(), other.pairs.metrics.loss.to_bits(), "{:?}", other_case.spec);
    assert_eq!(gradient_bits(case, one), gradient_bits(other_case, other), "{:?}", other_case.spec);
}

pub fn run_twice_gives_the_same_bits<T: Logit>(executor: &mut impl Executor) {
    for vocab in VOCABS {
        let case = Case::<T>::draw(spec(vocab));
        let (one, other) = (executor.run(&case), executor.run(&case));
        assert_same(&case, &one, &case, &other);
    }
}

/// Batch invariance: neither the other rows of the call nor their number show in a row.
pub fn a_pair_alone_gives_the_same_bits<T: Logit>(executor: &mut impl Executor) {
    for vocab in VOCABS {
        let case = Case::<T>::draw(spec(vocab));
        let together = executor.run(&case);
        let (pairs, len) = (case.spec.sequences / 2, case.spec.longest);
        let gradient = gradient_bits(&case, &together);
        for pair in 0..pairs {
            let lone_case = case.alone(pair);
            let lone = executor.run(&lone_case);
            let rows: Vec<usize> =
                [pair, pairs + pair].iter().flat_map(|&s| s * len..(s + 1) * len).collect();
            let pick = |values: &[f32]| rows.iter().map(|&row| values[row].to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&lone.logps.token_logps), pick(&together.logps.token_logps));
            assert_eq!(bits(&lone.logps.logsumexp), pick(&together.logps.logsumexp));
            assert_eq!(lone.pairs.margins[0].to_bits(), together.pairs.margins[pair].to_bits());
            assert_eq!(lone.pairs.coef[1].to_bits(), together.pairs.coef[pairs + pair].to_bits());
            let expected: Vec<_> = rows.iter().map(|&row| gradient[row].clone()).collect();
            assert_eq!(gradient_bits(&lone_case, &lone), expected);
        }
    }
}

/// The 16-byte phase at which a row starts does not change the order in which it is summed.
pub fn stride_and_phase_leave_the_bits_alone<T: Logit>(executor: &mut impl Executor) {
    for vocab in VOCABS {
        let case = Case::<T>::draw(spec(vocab));
        let plain = executor.run(&case);
        for (extra, phase, gradient_phase) in
            [(1, 0, None), (0, 8, Some(0)), (3, 4, Some(12)), (64, 12, None)]
        {
            let mut moved = case.restrided(vocab + extra, phase);
            moved.spec.gradient_phase = gradient_phase;
            let outcome = executor.run(&moved);
            assert_same(&case, &plain, &moved, &outcome);
        }
    }
}

pub fn packed_gives_the_bits_of_padded<T: Logit>(executor: &mut impl Executor) {
    for vocab in VOCABS {
        let case = Case::<T>::draw(spec(vocab));
        let mut packed = case.clone();
        packed.spec.packed = true;
        let (one, other) = (executor.run(&case), executor.run(&packed));
        assert_same(&case, &one, &packed, &other);
    }
}

/// At step 0 policy and reference are one model: cached log-probs equal fresh ones bit for bit, so every reward is 0.
pub fn policy_equal_to_reference_is_exactly_zero<T: Logit>(executor: &mut impl Executor) {
    for vocab in VOCABS {
        let mut case = Case::<T>::draw(spec(vocab));
        case.ref_logps = Some(executor.run(&case).logps.logps);
        let outcome = executor.run(&case);
        assert!(
            outcome.pairs.chosen_rewards.iter().chain(&outcome.pairs.rejected_rewards).all(|&r| r == 0.0)
        );
        assert!(outcome.pairs.pair_losses.iter().all(|&loss| loss == std::f32::consts::LN_2));
        assert_eq!(outcome.pairs.metrics.accuracy, 0.0);
    }
}
