//! Every loss, with every divergence it takes, alone and in sums, with and without per-pair tensors, over every way
//! that sequences form pairs.

use dpo_kernels::loss::{ALL, Divergence};
use dpo_kernels::{Logit, MetricsLevel, PairLoss};

use crate::case::{Case, Mask, PairKind, Spec};
use crate::executor::Executor;
use crate::expected::Expected;
use crate::random::Random;

/// The table's losses, and what can be made of them.
fn losses() -> Vec<PairLoss> {
    let named = |name: &str| PairLoss::named(name, 0.5f32).unwrap();
    let mut losses: Vec<PairLoss> = ALL.iter().map(|info| info.make(0.5, &[]).unwrap()).collect();
    for divergence in [
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha(0.25),
        Divergence::Alpha(1.0),
        Divergence::Alpha(2.0),
    ] {
        let takes = |loss: &&PairLoss| loss.with_divergence(divergence).is_ok();
        let with = |loss: &PairLoss| loss.with_divergence(divergence).unwrap();
        let more: Vec<PairLoss> = losses[..ALL.len()].iter().filter(takes).map(with).collect();
        losses.extend(more);
    }
    let mpo = named("sigmoid").weighted(0.75).unwrap();
    losses.extend([
        mpo.and(named("bco_pair"), 0.25).unwrap().and(named("sft"), 1.0).unwrap(),
        // Each with a temperature of its own.
        mpo.and(PairLoss::bco_pair(0.5).unwrap(), 0.25)
            .unwrap()
            .and(PairLoss::ipo(1.0).unwrap(), 0.5)
            .unwrap(),
        PairLoss::kto(1.0).unwrap().and(PairLoss::sppo_hard(0.25).unwrap(), 0.5).unwrap(),
        PairLoss::aot(1.0).unwrap().and(PairLoss::aot_unpaired(0.25).unwrap(), 0.5).unwrap(),
        PairLoss::nll().and(PairLoss::hinge(0.5).unwrap(), 2.0).unwrap(),
        named("ipo").and(named("hinge"), 2.0).unwrap().with_gamma(0.5).unwrap(),
        named("aot").and(named("aot_unpaired"), 0.5).unwrap().with_label_smoothing(0.125).unwrap(),
        named("aot_unpaired").with_length_normalization(),
        named("kto").with_baseline(1.5).unwrap().with_kto_weights(1.25, 0.75).unwrap(),
        named("robust").with_token_normalizer(),
        named("sigmoid").with_label_smoothing(0.25).unwrap(),
        named("nca_pair").with_length_normalization(),
    ]);
    losses
}

/// With every kind of token metrics in turn, where the executor has them: those are other kernels, with losses of their
/// own.
pub fn every_loss<T: Logit + Into<f64>>(executor: &mut impl Executor, has_metrics: bool) {
    let layouts = [PairKind::Concatenated, PairKind::Interleaved, PairKind::Indexed];
    for (number, loss) in losses().into_iter().enumerate() {
        for tensors in [false, true] {
            let mut run = |pairs| {
                let spec = Spec {
                    sequences: 10,
                    longest: 4,
                    pairs,
                    mask: Mask::Holes,
                    loss,
                    tensors,
                    scale: 2.0,
                    metrics: MetricsLevel::EVERY
                        [if has_metrics { (number + usize::from(tensors)) % 3 } else { 0 }],
                    seed: number as u64,
                    ..Spec::plain(7)
                };
                let mut case = Case::<T>::draw(spec);
                // Near the policy, as in training, where losses are not saturated and e^(log-ratio) fits in f16.
                let mut random = Random(spec.seed);
                for ref_logp in case.ref_logps.iter_mut().flatten() {
                    *ref_logp = -6.0 + 2.0 * random.symmetric();
                }
                Expected::of(&case).check(&executor.name(), &case, &executor.run(&case));
            };
            run(layouts[number % layouts.len()]);
            if loss.terms().iter().all(|term| term.kind.is_sided()) {
                run(PairKind::Unpaired);
            }
        }
    }
}
