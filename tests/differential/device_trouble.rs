//! Trouble in index arrays that only the device can see. On the host the same is an error before any work.

use dpo_kernels::{Logit, MetricsLevel, PairLoss};
use dpo_kernels::{MeanTokenMetrics, TokenMetrics};

use crate::case::{Case, Mask, PairKind, Spec, Tensors};
use crate::executor::{Device, Executor, OnDevice, Outcome};

/// Out-of-order entries are named, everything becomes NaN, nothing is touched out of bounds, and the counters are back
/// at zero (which every run of the executor checks). Every other time with token metrics, where there may be any.
pub fn bad_cu_seqlens<T: Logit>(metrics: bool, mut run: impl FnMut(&Case<T>) -> Outcome<T>) {
    let spec = Spec { sequences: 40, longest: 6, packed: true, mask: Mask::Holes, ..Spec::plain(33) };
    let healthy = Case::<T>::draw(spec);
    let rows = healthy.rows() as i32;
    for (index, (entry, value)) in
        [(0, 1), (0, -5), (5, rows), (3, rows + 1), (7, -1), (20, 2), (39, i32::MAX), (1, i32::MIN)]
            .into_iter()
            .enumerate()
    {
        let mut case = healthy.clone();
        case.spec.metrics = if metrics && index % 2 == 1 { MetricsLevel::All } else { MetricsLevel::None };
        case.cu_seqlens[entry] = value;
        let outcome = run(&case);
        // An entry is also out of order when the one before it is too large.
        let first =
            if entry > 0 && value > case.cu_seqlens[entry + 1] && value <= rows { entry + 1 } else { entry };
        assert_eq!(outcome.logps.status.bad_cu_seqlens, Some(first), "entry {entry} = {value}");
        assert!(outcome.logps.logps.iter().all(|logp| logp.is_nan()), "entry {entry} = {value}");
        assert!(outcome.pairs.metrics.loss.is_nan() && outcome.pairs.coef.iter().all(|c| c.is_nan()));
        if let Some(TokenMetrics { sequence_log_weights, mean: means, .. }) = outcome.logps.metrics {
            assert!(sequence_log_weights.iter().all(|weight| weight.is_nan()), "entry {entry} = {value}");
            let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = means;
            let unknown = [entropy, accuracy, mean_logit, logsumexp, sum_p2].iter().all(|mean| mean.is_nan());
            assert!(scored == 0 && unknown, "entry {entry} = {value}: {means:?}");
        }
    }
}

/// A pair out of range is named and NaN; the other pairs keep their numbers, the sequences theirs.
pub fn bad_pairs<T: Logit>(executor: &mut OnDevice<impl Device>) {
    let spec = Spec { sequences: 8, pairs: PairKind::Indexed, ..Spec::plain(33) };
    let mut healthy = Case::<T>::draw(spec);
    healthy.chosen = vec![0, 1, 2, 3];
    healthy.rejected = vec![4, 5, 6, 7];
    let expected = executor.run(&healthy);
    for bad in [-1, 8, i32::MAX, i32::MIN] {
        for side in [0, 1] {
            let mut case = healthy.clone();
            let indices = if side == 0 { &mut case.chosen } else { &mut case.rejected };
            indices[2] = bad;
            let outcome = executor.run(&case);
            assert_eq!(outcome.logps.status.bad_pair, Some(2));
            assert_eq!(outcome.logps.logps, expected.logps.logps);
            assert!(outcome.pairs.metrics.loss.is_nan());
            for pair in 0..4 {
                let (found, expected) = (outcome.pairs.pair_losses[pair], expected.pairs.pair_losses[pair]);
                assert!(if pair == 2 { found.is_nan() } else { found == expected }, "pair {pair}: {found}");
            }
            // The bad pair's other member is spoilt; the sequence that the index should have named is in no pair.
            let (spoilt, unpaired) = if side == 0 { (6, 2) } else { (2, 6) };
            for s in 0..8 {
                let (found, expected) = (outcome.pairs.coef[s], expected.pairs.coef[s]);
                let right = match s {
                    _ if s == spoilt => found.is_nan(),
                    _ if s == unpaired => found == 0.0,
                    _ => found == expected,
                };
                assert!(right, "coef[{s}] is {found}, without the bad index {expected}");
            }
        }
    }
}

/// A value that the host would refuse is NaN in its pair's loss and coefficients, and nowhere else; a normaliser that
/// is none is NaN in all of them.
pub fn bad_pair_values<T: Logit>(executor: &mut OnDevice<impl Device>) {
    const BAD: usize = 1;
    let spec = Spec {
        sequences: 6,
        loss: PairLoss::robust(0.5f32, 0.25f32).unwrap(),
        tensors: true,
        ..Spec::plain(33)
    };
    let healthy = Case::<T>::draw(spec);
    let expected = executor.run(&healthy);
    assert!(expected.pairs.coef.iter().all(|c| c.is_finite()));
    type Tensor = fn(&mut Tensors) -> &mut Option<Vec<f32>>;
    let bad: [(Tensor, &[f32]); 4] = [
        (|tensors| &mut tensors.beta, &[0.0, -1.0, f32::NAN, f32::INFINITY]),
        (|tensors| &mut tensors.gamma, &[f32::NAN, f32::INFINITY]),
        (|tensors| &mut tensors.weight, &[-1.0, f32::NAN, f32::INFINITY]),
        (|tensors| &mut tensors.label_smoothing, &[-0.25, 0.5, f32::NAN]),
    ];
    for (tensor, values) in bad {
        for &value in values {
            let mut case = healthy.clone();
            tensor(&mut case.tensors).as_mut().expect("drawn")[BAD] = value;
            let outcome = executor.run(&case);
            assert!(outcome.pairs.metrics.loss.is_nan(), "{value}");
            for pair in 0..3 {
                let (w, l) = (pair, 3 + pair);
                let (found, expected) = (&outcome.pairs, &expected.pairs);
                let numbers = [found.pair_losses[pair], found.coef[w], found.coef[l]];
                let right = match pair {
                    BAD => numbers.iter().all(|x| x.is_nan()),
                    _ => numbers == [expected.pair_losses[pair], expected.coef[w], expected.coef[l]],
                };
                assert!(right, "pair {pair} of {value}: {numbers:?}");
            }
        }
    }
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut case = healthy.clone();
        case.tensors.normalizer = Some(value);
        let outcome = executor.run(&case);
        assert!(outcome.pairs.metrics.loss.is_nan() && outcome.pairs.coef.iter().all(|c| c.is_nan()));
        assert_eq!(outcome.pairs.pair_losses, expected.pairs.pair_losses);
    }
}
