//! Finite differences of the whole chain, logits → log-probs → loss, in f64, against the reference's own gradient.

use dpo_kernels::{HostBatch, LabelAlignment, PairLoss, Pairs, Sequences, reference};
use proptest::prelude::*;

/// Step of the central difference. Its truncation error is STEP²/6 times the third derivative, which the losses here
/// (β ≤ 1, few tokens, upstream/normaliser ≤ 2) keep below 10; its rounding error is that of the loss over STEP.
const STEP: f64 = 1e-5;

fn tolerance(loss: f64) -> f64 {
    let truncation = STEP * STEP / 6.0 * 10.0;
    let rounding = 32.0 * f64::EPSILON * loss.abs().max(1.0) / STEP;
    truncation + rounding
}

struct Chain<'a> {
    batch: HostBatch<'a>,
    labels: &'a [i64],
    ref_logps: Option<&'a [f64]>,
    loss: PairLoss,
    upstream: f64,
}

impl Chain<'_> {
    fn loss(&self, logits: &[f64]) -> f64 {
        let logps = reference::logps(&self.batch, logits, self.labels.into()).unwrap();
        let (sums, lengths) = (&logps.logps, Some(&logps.scored[..]));
        let pairs = reference::pair_loss(&self.batch, sums, self.ref_logps, lengths, &self.loss).unwrap();
        self.upstream * pairs.metrics.loss
    }

    fn gradient(&self, logits: &[f64]) -> Vec<f64> {
        let labels = self.labels.into();
        let logps = reference::logps(&self.batch, logits, labels).unwrap();
        let (sums, lengths) = (&logps.logps, Some(&logps.scored[..]));
        let pairs = reference::pair_loss(&self.batch, sums, self.ref_logps, lengths, &self.loss).unwrap();
        reference::backward(&self.batch, logits, labels, &logps.logsumexp, &pairs.coef, self.upstream)
            .unwrap()
    }

    fn check(&self, logits: &[f64]) {
        let gradient = self.gradient(logits);
        let tolerance = tolerance(self.loss(logits));
        for i in 0..logits.len() {
            let shifted = |by: f64| {
                let mut logits = logits.to_vec();
                logits[i] += by;
                self.loss(&logits)
            };
            let difference = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            assert!(
                (difference - gradient[i]).abs() <= tolerance,
                "logit {i}: finite difference {difference:e}, gradient {:e}",
                gradient[i]
            );
        }
    }
}

const SEQUENCES: usize = 4;
const LEN: usize = 4;
const VOCAB: usize = 5;
const STRIDE: usize = 7;
const ROWS: usize = SEQUENCES * LEN;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn of_the_whole_chain(
        logits in prop::collection::vec(-3.0..3.0f64, ROWS * STRIDE),
        labels in prop::collection::vec(prop_oneof![3 => 0..VOCAB as i64, 1 => Just(-100)], ROWS),
        ref_logps in prop::option::of(prop::collection::vec(-12.0..0.0f64, SEQUENCES)),
        packed in any::<bool>(),
        next_token in any::<bool>(),
        layout in 0..3,
        beta in 0.05..1.0f64,
        label_smoothing in prop_oneof![Just(0.0), 0.0..0.5f64],
        length_normalized in any::<bool>(),
        normalizer in prop::option::of(1.0..4.0f64),
        upstream in -2.0..2.0f64,
    ) {
        let mut loss = PairLoss::sigmoid(beta).unwrap().with_label_smoothing(label_smoothing).unwrap();
        if length_normalized {
            loss = loss.with_length_normalization();
        }
        if let Some(normalizer) = normalizer {
            loss = loss.with_normalizer(normalizer).unwrap();
        }
        // Sequence 2 has no rows.
        let cu_seqlens = [0, 3, 9, 9, ROWS as i32];
        let sequences = if packed {
            Sequences::Packed { cu_seqlens: &cu_seqlens[..], rows: ROWS }
        } else {
            Sequences::Padded { count: SEQUENCES, len: LEN }
        };
        let batch = HostBatch {
            row_stride: STRIDE,
            pairs: match layout {
                0 => Pairs::Concatenated,
                1 => Pairs::Interleaved,
                // Sequence 1 stands in all pairs, sequence 2 in none.
                _ => Pairs::Indexed { chosen: &[0, 1, 1], rejected: &[1, 3, 0] },
            },
            label_alignment: if next_token { LabelAlignment::NextToken } else { LabelAlignment::Aligned },
            ..HostBatch::new(VOCAB, sequences)
        };
        let chain = Chain { batch, labels: &labels, ref_logps: ref_logps.as_deref(), loss, upstream };
        chain.check(&logits[..batch.logits_len()]);
    }
}
