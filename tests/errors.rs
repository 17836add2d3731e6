//! One test per error variant and argument that the CPU side can produce, and what is left untouched by it.

use std::fmt::Debug;

use dpo_kernels::cpu::{self, BackwardInputs, Logsumexp};
use dpo_kernels::{
    Coef, EntropyCoef, Error, HostBatch, LabelAlignment, Labels, PairLoss, Pairs, Transform, reference,
    theory,
};
use dpo_kernels::{Forward, PairInputs};
use dpo_kernels::{Logps, PairOutputs, Status};

const SEQUENCES: usize = 4;
const LEN: usize = 2;
const VOCAB: usize = 3;
const ROWS: usize = SEQUENCES * LEN;
const LOGITS: [f32; ROWS * VOCAB] = [0.5; ROWS * VOCAB];
const LABELS: [i32; ROWS] = [0; ROWS];

fn batch() -> HostBatch<'static> {
    HostBatch::padded(SEQUENCES, LEN, VOCAB, LabelAlignment::Aligned)
}

fn labels() -> Labels<'static> {
    (&LABELS[..]).into()
}

fn loss() -> PairLoss {
    PairLoss::sigmoid(0.1).unwrap()
}

/// Asserts an error's variant and its whole text.
macro_rules! refused {
    ($result:expr, $variant:ident, $text:expr) => {{
        let error = $result.unwrap_err();
        assert!(matches!(error, Error::$variant { .. }), "{error:?}");
        assert_eq!(error.to_string(), $text);
    }};
}

/// What anyhow and `Box<dyn Error>` need of an error that crosses threads.
#[test]
fn errors_convert_into_any_other() {
    fn anyhow<E: std::error::Error + Send + Sync + 'static>(
        error: E,
    ) -> Box<dyn std::error::Error + Send + Sync> {
        error.into()
    }
    let error = PairLoss::sigmoid(0.0).unwrap_err();
    assert_eq!(anyhow(error.clone()).downcast_ref(), Some(&error));
}

/// The value that a refused call must not have touched.
fn untouched<T: Default + PartialEq + Debug>(out: T) {
    assert_eq!(out, T::default());
}

mod shapes {
    use super::*;
    use dpo_kernels::Sequences;

    #[test]
    fn vocab() {
        refused!(
            HostBatch::padded(2, 1, 0, LabelAlignment::Aligned).validate(),
            Value,
            "vocab: expected between 1 and 2147483647, found 0"
        );
    }

    #[test]
    fn row_stride_below_vocab() {
        let batch = HostBatch { row_stride: 2, ..batch() };
        refused!(batch.validate(), Value, "row_stride: expected at least vocab = 3, found 2");
    }

    #[test]
    fn row_stride_beyond_offsets() {
        let batch = HostBatch { row_stride: usize::MAX / 2, ..batch() };
        let text = format!("row_stride: expected rows * row_stride below 2^61, found {}", usize::MAX / 2);
        refused!(batch.validate(), Value, text);
    }

    #[test]
    fn no_sequences() {
        let batch = HostBatch::padded(0, 2, 3, LabelAlignment::Aligned);
        refused!(batch.validate(), Value, "sequences: expected between 1 and 2147483647, found 0");
    }

    #[test]
    fn odd_number_of_sequences() {
        for pairs in [Pairs::Concatenated, Pairs::Interleaved] {
            let batch = HostBatch { pairs, ..HostBatch::padded(3, 2, 3, LabelAlignment::Aligned) };
            refused!(
                batch.validate(),
                Value,
                "sequences: expected an even number, chosen and rejected, found 3"
            );
        }
    }

    #[test]
    fn rows() {
        let empty = HostBatch::padded(2, 0, 3, LabelAlignment::Aligned);
        refused!(empty.validate(), Value, "rows: expected between 1 and 2147483647, found 0");
        let overflowing = HostBatch::padded(1 << 30, usize::MAX / 2, 3, LabelAlignment::Aligned);
        let text = format!("rows: expected between 1 and 2147483647, found {}", usize::MAX);
        refused!(overflowing.validate(), Value, text);
    }

    #[test]
    fn cu_seqlens_too_short() {
        for cu_seqlens in [&[][..], &[0]] {
            let batch = HostBatch::packed(cu_seqlens, 2, 3, LabelAlignment::Aligned);
            let text =
                format!("cu_seqlens: expected at least 2 entries, [S + 1], found {}", cu_seqlens.len());
            refused!(batch.validate(), Value, text);
        }
    }

    #[test]
    fn cu_seqlens_entries() {
        for (cu_seqlens, text) in [
            ([1, 2, 4], "cu_seqlens[0]: expected 0, found 1"),
            ([0, -1, 4], "cu_seqlens[1]: expected between 0 and 4, found -1"),
            ([0, 5, 4], "cu_seqlens[1]: expected between 0 and 4, found 5"),
            ([0, 2, 3], "cu_seqlens[2]: expected the number of rows, 4, found 3"),
            ([0, 2, 5], "cu_seqlens[2]: expected the number of rows, 4, found 5"),
        ] {
            refused!(HostBatch::packed(&cu_seqlens, 4, 3, LabelAlignment::Aligned).validate(), Index, text);
        }
        let falling = HostBatch::packed(&[0, 3, 2, 4, 4], 4, 3, LabelAlignment::Aligned);
        refused!(falling.validate(), Index, "cu_seqlens[2]: expected between 3 and 4, found 2");
    }

    #[test]
    fn no_pairs() {
        let batch = HostBatch { pairs: Pairs::Indexed { chosen: &[], rejected: &[] }, ..batch() };
        refused!(batch.validate(), Value, "pairs: expected between 1 and 2147483647, found 0");
    }

    #[test]
    fn chosen_and_rejected_of_different_lengths() {
        let batch = HostBatch { pairs: Pairs::Indexed { chosen: &[0, 1], rejected: &[2] }, ..batch() };
        refused!(batch.validate(), Length, "rejected: expected 2 elements ([pairs]), found 1");
    }

    #[test]
    fn chosen_and_rejected_entries() {
        let batch = HostBatch { pairs: Pairs::Indexed { chosen: &[0, 4], rejected: &[1, 2] }, ..batch() };
        refused!(batch.validate(), Index, "chosen[1]: expected a sequence index below 4, found 4");
        let alike = HostBatch { pairs: Pairs::Indexed { chosen: &[0, 3], rejected: &[1, 3] }, ..batch };
        refused!(alike.validate(), Index, "rejected[1]: expected a sequence other than chosen's, found 3");
        let batch = HostBatch { pairs: Pairs::Indexed { chosen: &[0, 3], rejected: &[-1, 2] }, ..batch };
        refused!(batch.validate(), Index, "rejected[0]: expected a sequence index below 4, found -1");
    }

    #[test]
    fn transform() {
        let refuse = |transform, text: &str| {
            refused!(HostBatch { transform, ..batch() }.validate(), Value, text);
        };
        for (value, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let scale = Transform { scale: value, ..Transform::default() };
            refuse(scale, &format!("transform.scale: expected a finite number above 0, found {found}"));
            let softcap = Transform { softcap: Some(value), ..Transform::default() };
            refuse(softcap, &format!("transform.softcap: expected a finite number above 0, found {found}"));
        }
        for found in [0, VOCAB + 1] {
            let valid_vocab = Transform { valid_vocab: Some(found), ..Transform::default() };
            let text = format!("transform.valid_vocab: expected between 1 and vocab = 3, found {found}");
            refuse(valid_vocab, &text);
        }
        let most = Transform { scale: f32::MAX, softcap: Some(f32::MIN_POSITIVE), valid_vocab: Some(VOCAB) };
        HostBatch { transform: most, ..batch() }.validate().unwrap();
    }

    #[test]
    fn ld_alpha() {
        for (ld_alpha, found) in [(-0.1, "-0.1"), (1.5, "1.5"), (f32::NAN, "NaN")] {
            let text = format!("ld_alpha: expected a number from 0 to 1, found {found}");
            refused!(HostBatch { ld_alpha, ..batch() }.validate(), Value, text);
        }
        for pairs in [Pairs::None, Pairs::Indexed { chosen: &[0][..], rejected: &[1][..] }] {
            refused!(
                HostBatch { ld_alpha: 0.5, pairs, ..batch() }.validate(),
                Value,
                "pairs: expected concatenated or interleaved, where ld_alpha is not 1: each sequence in one pair, \
                 found another layout"
            );
        }
        HostBatch { ld_alpha: 0.0, pairs: Pairs::Interleaved, ..batch() }.validate().unwrap();
    }

    #[test]
    fn every_entry_point_validates_its_batch() {
        let bad = HostBatch { row_stride: 2, ..batch() };
        let text = "row_stride: expected at least vocab = 3, found 2";
        let (mut logps, mut pairs, mut forward) =
            (Logps::default(), PairOutputs::default(), Forward::default());
        let logsumexp = Logsumexp { values: &[0.0; ROWS], residual: None };
        let (coef, mut dlogits) = ([0.0; SEQUENCES], LOGITS);
        refused!(cpu::logps(&bad, &LOGITS, labels(), &mut logps), Value, text);
        refused!(cpu::pair_loss(&bad, &[0.0; 4], None, &PairInputs::NONE, &loss(), &mut pairs), Value, text);
        refused!(
            cpu::forward(&bad, &LOGITS, labels(), &PairInputs::NONE, &loss(), &mut forward),
            Value,
            text
        );
        refused!(
            cpu::backward(&bad, &LOGITS, labels(), BackwardInputs::new(logsumexp, &coef), &mut dlogits),
            Value,
            text
        );
        refused!(
            cpu::backward_in_place(&bad, &mut dlogits, labels(), BackwardInputs::new(logsumexp, &coef)),
            Value,
            text
        );
        refused!(reference::logps(&bad, &LOGITS, labels()), Value, text);
        refused!(bad.scored_tokens(labels()), Value, text);
        refused!(reference::pair_loss(&bad, &[0.0; 4], None, &PairInputs::NONE, &loss()), Value, text);
        refused!(reference::backward(&bad, &LOGITS, labels(), &[0.0; ROWS], &[0.0; 4], 1.0), Value, text);
        untouched((logps, pairs));
        untouched(forward);
        assert_eq!(dlogits, LOGITS);
    }

    #[test]
    fn valid_shapes_at_their_limits() {
        let whole = Sequences::Packed { cu_seqlens: &[0, 0, 1, 1][..], rows: 1 };
        HostBatch { pairs: Pairs::None, ..HostBatch::new(1, whole, LabelAlignment::Aligned) }
            .validate()
            .unwrap();
    }
}

mod parameters {
    use super::*;

    #[test]
    fn beta() {
        for (beta, found) in [(0.0, "0"), (-0.1, "-0.1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let text = format!("beta: expected a finite number above 0, found {found}");
            refused!(PairLoss::sigmoid(beta), Value, text);
        }
    }

    #[test]
    fn label_smoothing() {
        for (epsilon, found) in [(-0.1, "-0.1"), (0.6, "0.6"), (f64::NAN, "NaN")] {
            let text = format!("label_smoothing: expected a number from 0 to 0.5, found {found}");
            refused!(loss().with_label_smoothing(epsilon), Value, text);
        }
    }

    #[test]
    fn normalizer() {
        for (normalizer, found) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let text = format!("normalizer: expected a finite number above 0, found {found}");
            refused!(loss().with_normalizer(normalizer), Value, text);
        }
    }
}

mod lengths {
    use super::*;

    const SHORT_LOGITS: &str =
        "logits: expected 24 elements (rows * row_stride, or up to the end of the last row), found 23";
    const SHORT_LABELS: &str = "labels: expected 8 elements ([rows]), found 7";
    const SHORT_REF_LOGPS: &str = "ref_logps: expected 4 elements ([sequences]), found 3";
    const SHORT_COEF: &str = "coef: expected 4 elements ([sequences]), found 3";

    #[test]
    fn of_logits_and_labels_in_logps() {
        let mut out = Logps::default();
        let few = Labels::I32(&LABELS[1..]);
        refused!(cpu::logps(&batch(), &LOGITS[1..], labels(), &mut out), Length, SHORT_LOGITS);
        refused!(cpu::logps(&batch(), &LOGITS, few, &mut out), Length, SHORT_LABELS);
        refused!(reference::logps(&batch(), &LOGITS[1..], labels()), Length, SHORT_LOGITS);
        refused!(reference::logps(&batch(), &LOGITS, few), Length, SHORT_LABELS);
        refused!(batch().scored_tokens(few), Length, SHORT_LABELS);
        refused!(batch().pair_tokens(few, None), Length, SHORT_LABELS);
        let text = "weight: expected 2 elements ([pairs]), found 3";
        refused!(batch().pair_tokens(labels(), Some(&[1.0; 3])), Length, text);
        untouched(out);

        // Longer logits would hide a wrong shape.
        let long = [&LOGITS[..], &[0.0]].concat();
        let text = SHORT_LOGITS.replace("found 23", "found 25");
        refused!(cpu::logps(&batch(), &long, labels(), &mut Logps::default()), Length, text);
        refused!(reference::logps(&batch(), &long, labels()), Length, text);

        let many = Labels::I64(&[0; ROWS + 1]);
        let text = "labels: expected 8 elements ([rows]), found 9";
        refused!(reference::logps(&batch(), &LOGITS, many), Length, text);
    }

    #[test]
    fn of_pair_loss() {
        let (logps, wide) = ([0.0f32; SEQUENCES], [0.0f64; SEQUENCES]);
        let (lengths, loss) = ([1; SEQUENCES], loss());
        let mut out = PairOutputs::default();

        let text = "logps: expected 4 elements ([sequences]), found 3";
        refused!(
            cpu::pair_loss(&batch(), &logps[1..], None, &PairInputs::NONE, &loss, &mut out),
            Length,
            text
        );
        refused!(reference::pair_loss(&batch(), &wide[1..], None, &PairInputs::NONE, &loss), Length, text);

        let ref_logps = Some(&logps[1..]);
        refused!(
            cpu::pair_loss(
                &batch(),
                &logps,
                None,
                &PairInputs { ref_logps, ..PairInputs::NONE },
                &loss,
                &mut out
            ),
            Length,
            SHORT_REF_LOGPS
        );
        refused!(
            reference::pair_loss(&batch(), &wide, None, &PairInputs::reference(&wide[1..]), &loss),
            Length,
            SHORT_REF_LOGPS
        );

        let text = "lengths: expected 4 elements ([sequences]), found 3";
        let few = Some(&lengths[1..]);
        refused!(cpu::pair_loss(&batch(), &logps, few, &PairInputs::NONE, &loss, &mut out), Length, text);
        refused!(reference::pair_loss(&batch(), &wide, few, &PairInputs::NONE, &loss), Length, text);
        untouched(out);
    }

    #[test]
    fn of_the_fused_forward() {
        let mut out = Forward::default();
        let (few, loss) = (Labels::I32(&LABELS[1..]), loss());
        refused!(
            cpu::forward(&batch(), &LOGITS[1..], labels(), &PairInputs::NONE, &loss, &mut out),
            Length,
            SHORT_LOGITS
        );
        refused!(
            cpu::forward(&batch(), &LOGITS, few, &PairInputs::NONE, &loss, &mut out),
            Length,
            SHORT_LABELS
        );
        let ref_logps = Some(&[0.0; 3][..]);
        refused!(
            cpu::forward(
                &batch(),
                &LOGITS,
                labels(),
                &PairInputs { ref_logps, ..PairInputs::NONE },
                &loss,
                &mut out
            ),
            Length,
            SHORT_REF_LOGPS
        );
        untouched(out);
    }

    #[test]
    fn of_backward() {
        let (batch, coef) = (batch(), [1.0f32; SEQUENCES]);
        let rows = [0.0f32; ROWS];
        let all = Logsumexp { values: &rows, residual: None };
        let mut dlogits = LOGITS;
        let mut backward = |logits: &[f32], labels, logsumexp, coef: &[f32]| {
            cpu::backward(&batch, logits, labels, BackwardInputs::new(logsumexp, coef), &mut dlogits)
        };
        refused!(backward(&LOGITS[1..], labels(), all, &coef), Length, SHORT_LOGITS);
        refused!(backward(&LOGITS, Labels::I32(&LABELS[1..]), all, &coef), Length, SHORT_LABELS);
        refused!(backward(&LOGITS, labels(), all, &coef[1..]), Length, SHORT_COEF);

        let values = Logsumexp { values: &rows[1..], residual: None };
        let text = "logsumexp.values: expected 8 elements ([rows]), found 7";
        refused!(backward(&LOGITS, labels(), values, &coef), Length, text);
        let residual = Logsumexp { values: &rows, residual: Some(&rows[1..]) };
        let text = "logsumexp.residual: expected 8 elements ([rows]), found 7";
        refused!(backward(&LOGITS, labels(), residual, &coef), Length, text);

        let entropy = |coef, entropy| EntropyCoef { coef, entropy };
        let with_entropy = BackwardInputs::new(all, &coef).with_entropy(entropy(&rows[1..], &rows));
        let text = "entropy_coef: expected 8 elements ([rows]), found 7";
        refused!(cpu::backward(&batch, &LOGITS, labels(), with_entropy, &mut dlogits), Length, text);
        let with_entropy = BackwardInputs::new(all, &coef).with_entropy(entropy(&rows, &rows[1..]));
        let text = "entropy: expected 8 elements ([rows]), found 7";
        refused!(cpu::backward(&batch, &LOGITS, labels(), with_entropy, &mut dlogits), Length, text);

        let token_coef = |tokens| Coef { tokens: Some(tokens), ..Coef::default() };
        let text = "token_coef: expected 8 elements ([rows]), found 7";
        let mut with =
            |coef| cpu::backward(&batch, &LOGITS, labels(), BackwardInputs::new(all, coef), &mut dlogits);
        refused!(with(token_coef(&rows[1..])), Length, text);
        for (threshold, found) in [(-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let text = format!("threshold: expected a finite number that is not below 0, found {found}");
            refused!(with(Coef { threshold, ..Coef::default() }), Value, text);
        }

        let text =
            "dlogits: expected 24 elements (rows * row_stride, or up to the end of the last row), found 23";
        refused!(
            cpu::backward(&batch, &LOGITS, labels(), BackwardInputs::new(all, &coef), &mut dlogits[1..]),
            Length,
            text
        );
        assert_eq!(dlogits, LOGITS, "untouched");
    }

    /// What follows the last row, up to the stride, may be there or not.
    #[test]
    fn of_logits_with_a_stride() {
        let wide = HostBatch { row_stride: 5, ..batch() };
        let elements = wide.rows() * 5;
        let run =
            |elements: usize| cpu::logps(&wide, &vec![0.5f32; elements], labels(), &mut Logps::default());
        assert_eq!(wide.logits_len(), elements - 2);
        for found in [elements, elements - 2] {
            run(found).unwrap();
        }
        for found in [elements + 1, elements - 1, elements - 3] {
            let text = format!(
                "logits: expected {} elements (rows * row_stride, or up to the end of the last row), found {found}",
                elements - 2
            );
            refused!(run(found), Length, text);
        }
    }

    /// Whatever the fields of a batch are, there is a length.
    #[test]
    fn of_batches_that_are_none() {
        assert_eq!(HostBatch::padded(0, 0, 3, LabelAlignment::Aligned).logits_len(), 0);
        assert_eq!(
            HostBatch::padded(usize::MAX, 2, usize::MAX, LabelAlignment::Aligned).logits_len(),
            usize::MAX
        );
    }

    #[test]
    fn of_backward_in_place() {
        let (batch, coef, rows) = (batch(), [1.0f32; SEQUENCES], [0.0f32; ROWS]);
        let all = Logsumexp { values: &rows, residual: None };
        let mut logits = LOGITS;
        refused!(
            cpu::backward_in_place(&batch, &mut logits[1..], labels(), BackwardInputs::new(all, &coef)),
            Length,
            SHORT_LOGITS
        );
        refused!(
            cpu::backward_in_place(&batch, &mut logits, labels(), BackwardInputs::new(all, &coef[1..])),
            Length,
            SHORT_COEF
        );
        assert_eq!(logits, LOGITS, "untouched");
    }

    #[test]
    fn of_the_reference_s_backward() {
        let (batch, coef, rows) = (batch(), [1.0f64; SEQUENCES], [0.0f64; ROWS]);
        let backward = |logits: &[f32], logsumexp: &[f64], coef: &[f64]| {
            reference::backward(&batch, logits, labels(), logsumexp, coef, 1.0)
        };
        refused!(backward(&LOGITS[1..], &rows, &coef), Length, SHORT_LOGITS);
        let text = "logsumexp: expected 8 elements ([rows]), found 7";
        refused!(backward(&LOGITS, &rows[1..], &coef), Length, text);
        refused!(backward(&LOGITS, &rows, &coef[1..]), Length, SHORT_COEF);
    }
}

/// What a loss has no use for, or cannot be, is refused where it is made.
mod losses {
    use super::*;
    use dpo_kernels::loss::{ALL, Divergence, Kind, LossInfo, PairInputs, Sequence};

    fn named(name: &str) -> PairLoss {
        PairLoss::named(name, 0.1).unwrap()
    }

    #[test]
    fn names() {
        let error = PairLoss::named("ppo", 0.1).unwrap_err().to_string();
        let names: Vec<&str> = ALL.iter().flat_map(LossInfo::names).collect();
        assert_eq!(error, format!("loss: expected one of {}, found ppo", names.join(", ")));
        for info in &ALL {
            assert_eq!(info.name.parse::<PairLoss>(), info.make(info.beta, &[]));
            refused!(info.make(0.0, &[]), Value, "beta: expected a finite number above 0, found 0");
        }
    }

    #[test]
    fn label_smoothing() {
        let text = "label_smoothing: expected a number from 0 to below 0.5, found 0.5";
        refused!(PairLoss::robust(0.1, 0.5), Value, text);
        let text = "label_smoothing: expected a number above 0, to 0.5, found 0";
        refused!(PairLoss::exo_pair(0.1, 0.0), Value, text);
        let text = "label_smoothing: expected none, for a loss without it, found 0.1";
        for name in
            ["hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft", "kto"]
        {
            refused!(named(name).with_label_smoothing(0.1), Value, text);
        }
    }

    #[test]
    fn divergences() {
        let text =
            "divergence: expected the reverse KL, for a loss that is not of the margin z, found ForwardKl";
        for name in [
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "aot",
            "aot_unpaired",
            "apo_zero",
            "apo_down",
            "sft",
            "nll",
            "kto",
            "orpo",
            "cpo",
            "rpo",
        ] {
            refused!(named(name).with_divergence(Divergence::ForwardKl), Value, text);
        }
        let text = "alpha: expected a finite number, found inf";
        refused!(loss().with_divergence(Divergence::Alpha(f64::INFINITY)), Value, text);
    }

    #[test]
    fn parameters() {
        for tau in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            let text = format!("tau: expected a finite number above 0, found {tau}");
            refused!(PairLoss::discopop(0.1, tau), Value, text);
        }
        refused!(PairLoss::simpo(2.0, -1.0), Value, "gamma: expected a finite number from 0, found -1");
        refused!(PairLoss::rpo(0.1, f64::NAN), Value, "alpha: expected a finite number from 0, found NaN");
        refused!(loss().with_gamma(f64::NAN), Value, "gamma: expected a finite number, found NaN");
        let text = "gamma: expected none, for a loss that is not of the margin z, found one";
        refused!(named("bco_pair").with_gamma(1.0), Value, text);
        let text = "baseline: expected none, for a loss that has no baseline, found one";
        refused!(loss().with_baseline(1.0), Value, text);
        let text = "desirable_weight: expected a finite number above 0, found 0";
        refused!(named("kto").with_kto_weights(0.0, 1.0), Value, text);
        for info in &ALL {
            let count = info.parameters.len();
            let text = format!("parameters: expected at most {count}, for this loss, found {}", count + 1);
            refused!(info.make(0.1, &vec![0.5; count + 1]), Value, text);
            for i in 0..count {
                let mut values: Vec<f64> = info.parameters.iter().map(|one| one.usual(0.1)).collect();
                assert_eq!(info.make(0.1, &values), info.make(0.1, &values[..i]), "{}", info.name);
                values[i] = f64::NAN;
                let error = info.make(0.1, &values).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{}: expected", info.parameters[i].name)), "{error}");
            }
        }
    }

    #[test]
    fn sums() {
        let text = "gamma: expected 0, as before, found 0.5";
        refused!(loss().and(PairLoss::hinge(0.2).unwrap().with_gamma(0.5).unwrap(), 1.0), Value, text);
        refused!(
            loss().and(named("hinge"), -1.0),
            Value,
            "weight: expected a finite number from 0, found -1"
        );
        refused!(loss().weighted(0.0), Value, "weight: expected a finite number above 0, found 0");
        let text = "loss: expected losses that all have a reference, or none, found both kinds";
        refused!(loss().and(named("cpo"), 1.0), Value, text);
        // A loss that reads no reference has no say in whether there is one.
        assert!(loss().and(named("orpo"), 1.0).unwrap().needs_reference());
        assert!(named("nll").and(loss(), 1.0).unwrap().needs_reference());
        assert!(named("nll").and(named("cpo"), 1.0).unwrap().is_reference_free());
        let text = "terms: expected at most 4 losses, and each sorting loss once, found another aot";
        refused!(named("aot").and(named("aot"), 1.0), Value, text);
        let four = (0..3).fold(loss(), |sum, _| sum.and(named("hinge"), 1.0).unwrap());
        let text = "terms: expected at most 4 losses, and each sorting loss once, found another hinge";
        refused!(four.and(named("hinge"), 1.0), Value, text);
        assert_eq!(four.and(named("hinge"), 0.0), Ok(four));
        let forward = loss().with_divergence(Divergence::ForwardKl).unwrap();
        let text = "divergence: expected ReverseKl, as before, found ForwardKl";
        refused!(loss().and(forward, 1.0), Value, text);
    }

    fn refuse(loss: &PairLoss, inputs: &PairInputs<'_, f32>, text: &str) {
        let mut out = PairOutputs::default();
        let scored = [1; SEQUENCES];
        refused!(
            cpu::pair_loss(&batch(), &[0.0; SEQUENCES], Some(&scored), inputs, loss, &mut out),
            Value,
            text
        );
        untouched(out);
        let mut out = Forward::default();
        refused!(cpu::forward(&batch(), &LOGITS, labels(), inputs, loss, &mut out), Value, text);
        untouched(out);
    }

    #[test]
    fn inputs_without_use() {
        let some = PairInputs::default;
        let two = Some(&[1.0f32; 2][..]);
        refuse(
            &named("simpo"),
            &PairInputs { ref_logps: Some(&[0.0; SEQUENCES]), ..some() },
            "ref_logps: expected none, for a loss without a reference, found some",
        );
        let sorting = "none, for a loss that sorts the pairs, found some";
        refuse(&named("aot"), &PairInputs { weight: two, ..some() }, &format!("weight: expected {sorting}"));
        refuse(
            &named("aot_unpaired"),
            &PairInputs { beta: two, ..some() },
            &format!("beta: expected {sorting}"),
        );
        refuse(
            &named("aot"),
            &PairInputs { sequence_log_weights: Some(&[0.0; SEQUENCES]), ..some() },
            &format!("sequence_log_weights: expected {sorting}"),
        );
        refuse(
            &named("bco_pair"),
            &PairInputs { gamma: two, ..some() },
            "gamma: expected none, for a loss that is not of the margin z, found one",
        );
        refuse(
            &named("hinge"),
            &PairInputs { label_smoothing: two, ..some() },
            "label_smoothing: expected none, for a loss without it, found some",
        );
        refuse(
            &loss(),
            &PairInputs { kl_logps: two, ..some() },
            "kl_logps: expected none, for a loss that has no baseline, found one",
        );
        refuse(
            &loss(),
            &PairInputs { chosen_tokens: Some(1.0), ..some() },
            "chosen_tokens: expected none, for a loss that does not count them, found some",
        );
        let divided = PairLoss::sft().with_normalizer(8.0).unwrap();
        for (loss, inputs) in [
            (PairLoss::sft(), PairInputs { normalizer: Some(8.0), ..PairInputs::NONE }),
            (divided, PairInputs::NONE),
            (PairLoss::sft().with_token_normalizer(), PairInputs::NONE),
        ] {
            let text = "normalizer: expected none, for a loss that is divided by the number of chosen tokens alone, found some";
            refuse(&loss, &inputs, text);
        }
    }

    #[test]
    fn values_out_of_range() {
        let some = || PairInputs::reference(&[0.0; SEQUENCES]);
        for (beta, found) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let text = format!("beta: expected finite numbers above 0, found {found} at 1");
            refuse(&loss(), &PairInputs { beta: Some(&[1.0, beta]), ..some() }, &text);
        }
        let weight = PairInputs { weight: Some(&[-1.0, 1.0]), ..some() };
        refuse(&loss(), &weight, "weight: expected finite numbers from 0, found -1 at 0");
        let margin = PairInputs { gamma: Some(&[f32::NAN, 1.0]), ..some() };
        refuse(&loss(), &margin, "gamma: expected finite numbers, found NaN at 0");
        let smoothing = PairInputs { label_smoothing: Some(&[0.25, 0.5]), ..some() };
        let text = "label_smoothing: expected a number from 0 to below 0.5, found 0.5 at 1";
        refuse(&named("robust"), &smoothing, text);
        let normalizer = PairInputs { normalizer: Some(0.0), ..some() };
        refuse(&loss(), &normalizer, "normalizer: expected a finite number above 0, found 0");
    }

    #[test]
    fn pairs_where_they_are_needed() {
        let batch = HostBatch { pairs: Pairs::Unpaired { desirable: &[1, 0, 1, 1] }, ..batch() };
        let text = "pairs: expected pairs, for sigmoid, which compares two sequences, found Pairs::Unpaired";
        refused!(
            reference::pair_loss(&batch, &[0.0; SEQUENCES], None, &PairInputs::NONE, &loss()),
            Value,
            text
        );
        let batch = HostBatch { pairs: Pairs::Unpaired { desirable: &[1, 0, 1] }, ..batch };
        let text = "desirable: expected 4 elements ([sequences]), found 3";
        refused!(
            reference::pair_loss(&batch, &[0.0; SEQUENCES], None, &PairInputs::NONE, &named("bco_pair")),
            Length,
            text
        );
    }

    #[test]
    fn what_is_missing() {
        let alone = |loss: &PairLoss| {
            let loss = loss.without_reference();
            reference::pair_loss(&batch(), &[0.0; SEQUENCES], None, &PairInputs::NONE, &loss)
        };
        for name in ["ipo", "sigmoid_norm", "orpo", "nll", "simpo", "cpo", "rpo"] {
            let text = "lengths: required when the loss is length-normalised";
            refused!(alone(&named(name)), Missing, text);
        }
        let text = "scored: required when the loss is divided by a number of tokens";
        refused!(alone(&named("sft")), Missing, text);
        refused!(alone(&loss().with_token_normalizer()), Missing, text);
        refused!(
            alone(&named("kto")),
            Missing,
            "kl_logps: required when the loss compares with a baseline that is not set"
        );
    }

    const NO_REFERENCE: &str = "required when the loss compares with a reference and is not reference-free \
         (without_reference, in C reference_free)";

    /// A reference that was forgotten is not taken to be 0: being without one must be said.
    #[test]
    fn a_needed_input_is_asked_for() {
        let given = |loss: &PairLoss| {
            let kl_logps = loss.estimates_baseline().then_some(&[0.0f32; 2][..]);
            PairInputs { kl_logps, kl_ref_logps: kl_logps, ..PairInputs::NONE }
        };
        for info in &ALL {
            let loss = info.make(0.5, &[]).unwrap();
            let reads = loss.terms().iter().any(|term| !term.kind.ignores_reference());
            assert_eq!(loss.needs_reference(), reads && !loss.is_reference_free(), "{}", info.name);
            let passes = |loss: &PairLoss, inputs: &PairInputs<'_, f32>| {
                let (scored, mut pairs, mut forward) =
                    ([1; SEQUENCES], PairOutputs::default(), Forward::default());
                let of_pairs =
                    cpu::pair_loss(&batch(), &[0.0; SEQUENCES], Some(&scored), inputs, loss, &mut pairs);
                let fused = cpu::forward(&batch(), &LOGITS, labels(), inputs, loss, &mut forward);
                assert_eq!(of_pairs.clone().err(), fused.err());
                of_pairs.map(|_| ())
            };
            let inputs = given(&loss);
            if !loss.needs_reference() {
                passes(&loss, &inputs).unwrap();
                continue;
            }
            refused!(passes(&loss, &inputs), Missing, format!("ref_logps: {NO_REFERENCE}"));
            let with_reference = PairInputs { ref_logps: Some(&[0.0; SEQUENCES]), ..inputs };
            passes(&loss, &with_reference).unwrap();
            passes(&loss.without_reference(), &PairInputs { kl_ref_logps: None, ..inputs }).unwrap();
            if loss.estimates_baseline() {
                let half = PairInputs { kl_ref_logps: None, ..with_reference };
                refused!(passes(&loss, &half), Missing, format!("kl_ref_logps: {NO_REFERENCE}"));
                let text = "kl_ref_logps: expected none, for a loss without a reference, found some";
                refused!(passes(&loss.without_reference(), &inputs), Value, text);
            }
        }
    }

    /// β scales log-ratios, and is refused to what reads none.
    #[test]
    fn a_useless_beta_is_refused() {
        for info in &ALL {
            let loss = info.make(0.5, &[]).unwrap().without_reference();
            if loss.terms().iter().any(|term| term.kind.couples_pairs()) {
                continue;
            }
            let kl_logps = loss.estimates_baseline().then_some(&[0.0f64; 2][..]);
            let inputs = PairInputs { beta: Some(&[0.5; 2]), kl_logps, ..PairInputs::NONE };
            let found =
                reference::pair_loss(&batch(), &[-1.0; SEQUENCES], Some(&[1; SEQUENCES]), &inputs, &loss);
            if ["sft", "nll", "odds_ratio", "orpo"].contains(&info.name) {
                let text = "beta: expected none, for a loss of log-probs, which does not read it, found some";
                refused!(found, Value, text);
            } else {
                assert!(loss.terms().iter().any(|term| Kind::reads_beta(term.kind)), "{}", info.name);
                found.unwrap();
            }
        }
    }

    /// A pair's β replaces that of the loss; there is no one answer where a sum has several.
    #[test]
    fn a_beta_of_the_pair_for_losses_with_several_is_refused() {
        let inputs = PairInputs { beta: Some(&[0.5f64; 2]), ..PairInputs::NONE };
        let run = |loss: PairLoss| {
            reference::pair_loss(&batch(), &[-1.0; SEQUENCES], None, &inputs, &loss.without_reference())
        };
        let text = "beta: expected none, for losses whose temperatures differ, found some";
        refused!(run(loss().and(PairLoss::bco_pair(0.2).unwrap(), 1.0).unwrap()), Value, text);
        // 0.1 as an f32 and as an f64 are one temperature; nll has none.
        let alike = PairLoss::sigmoid(0.1f32).unwrap().and(PairLoss::bco_pair(0.1).unwrap(), 1.0).unwrap();
        run(alike).unwrap();
        let with_nll = PairLoss::named("hinge", 0.2).unwrap().and(named("nll"), 1.0).unwrap();
        let lengths = PairInputs { lengths: Some(&[1; SEQUENCES]), ..inputs };
        let logps = [-1.0; SEQUENCES];
        reference::pair_loss(&batch(), &logps, None, &lengths, &with_nll.without_reference()).unwrap();
    }

    /// A pair alone is asked for what a batch is, and has the loss of a batch of one.
    #[test]
    fn a_pair_alone_is_what_forward_makes_of_it() {
        let logps = [-3.0, -4.5];
        for info in &ALL {
            let loss = info.make(0.5, &[]).unwrap();
            for ref_logps in [None, Some([-3.5, -4.0])] {
                let side = |s: usize| Sequence {
                    logp: logps[s],
                    ref_logp: ref_logps.map(|ref_logps| ref_logps[s]),
                    length: 2,
                };
                let inputs = PairInputs {
                    ref_logps: ref_logps.as_ref().map(|ref_logps| &ref_logps[..]),
                    normalizer: Some(1.0),
                    ..PairInputs::NONE
                };
                let batch = HostBatch::for_pair_loss(2);
                let of_batch = reference::pair_loss(&batch, &logps, Some(&[2, 2]), &inputs, &loss);
                match (loss.pair(side(0), side(1)), of_batch) {
                    (Ok(pair), Ok(batch)) => assert_eq!(
                        ([pair.loss], [pair.chosen_coef, pair.rejected_coef]),
                        ([batch.pair_losses[0]], [batch.coef[0], batch.coef[1]]),
                        "{}",
                        info.name
                    ),
                    (pair, batch) => assert_eq!(pair.err(), batch.err(), "{}", info.name),
                }
            }
        }
        let (with, without) = (Some(-3.0), None);
        let side = |ref_logp| Sequence { logp: -3.0, ref_logp, length: 1 };
        let text = "ref_logps: expected 2 elements ([sequences]), found 1";
        refused!(loss().pair(side(with), side(without)), Length, text);
        refused!(
            named("simpo").pair(side(with), side(with)),
            Value,
            "ref_logps: expected none, for a loss without a reference, found some"
        );
        refused!(
            named("kto").pair(side(with), side(with)),
            Missing,
            "kl_logps: required when the loss compares with a baseline that is not set"
        );
    }

    #[test]
    fn lengths_of_inputs() {
        let scored = [1; SEQUENCES];
        let short = Some(&[1.0f64][..]);
        let some = PairInputs::default;
        for (argument, shape, expected, inputs) in [
            ("beta", "[pairs]", 2, PairInputs { beta: short, ..some() }),
            ("gamma", "[pairs]", 2, PairInputs { gamma: short, ..some() }),
            ("weight", "[pairs]", 2, PairInputs { weight: short, ..some() }),
            ("label_smoothing", "[pairs]", 2, PairInputs { label_smoothing: short, ..some() }),
            ("sequence_log_weights", "[sequences]", 4, PairInputs { sequence_log_weights: short, ..some() }),
            ("lengths", "[sequences]", 4, PairInputs { lengths: Some(&[1]), ..some() }),
        ] {
            let text = format!("{argument}: expected {expected} elements ({shape}), found 1");
            let logps = [0.0; SEQUENCES];
            refused!(reference::pair_loss(&batch(), &logps, Some(&scored), &inputs, &loss()), Length, text);
        }
    }
}

mod missing {
    use super::*;

    #[test]
    fn token_weights() {
        let (rows, wide) = ([0.0f32; ROWS], [0.0f64; ROWS]);
        let batch = HostBatch { ld_alpha: 0.5, ..batch() };
        let logsumexp = Logsumexp { values: &rows, residual: None };
        let mut dlogits = LOGITS;
        let coef = [1.0f32; SEQUENCES];
        let text = "token_coef: required when ld_alpha is not 1";
        refused!(
            cpu::backward(&batch, &LOGITS, labels(), BackwardInputs::new(logsumexp, &coef), &mut dlogits),
            Missing,
            text
        );
        refused!(
            cpu::backward_in_place(&batch, &mut dlogits, labels(), BackwardInputs::new(logsumexp, &coef)),
            Missing,
            text
        );
        assert_eq!(dlogits, LOGITS, "untouched");
        let coef = [1.0f64; SEQUENCES];
        refused!(reference::backward(&batch, &LOGITS, labels(), &wide, &coef, 1.0), Missing, text);
    }

    #[test]
    fn lengths() {
        let loss = loss().with_length_normalization().without_reference();
        let text = "lengths: required when the loss is length-normalised";
        let mut out = PairOutputs::default();
        refused!(
            cpu::pair_loss(&batch(), &[0.0; 4], None, &PairInputs::NONE, &loss, &mut out),
            Missing,
            text
        );
        refused!(reference::pair_loss(&batch(), &[0.0; 4], None, &PairInputs::NONE, &loss), Missing, text);
        untouched(out);
    }

    #[test]
    fn pairs() {
        let batch = HostBatch { pairs: Pairs::None, ..batch() };
        let text = "pairs: expected a layout with pairs, for a loss, found Pairs::None";
        let (mut pairs, mut forward) = (PairOutputs::default(), Forward::default());
        refused!(
            cpu::pair_loss(&batch, &[0.0; 4], None, &PairInputs::NONE, &loss(), &mut pairs),
            Value,
            text
        );
        refused!(
            cpu::forward(&batch, &LOGITS, labels(), &PairInputs::NONE, &loss(), &mut forward),
            Value,
            text
        );
        refused!(reference::pair_loss(&batch, &[0.0; 4], None, &PairInputs::NONE, &loss()), Value, text);
        untouched(pairs);
        untouched(forward);
    }
}

mod data {
    use super::*;

    /// Status of both backends, which must agree, and the CPU backend's results.
    fn pass(logits: &[f32], labels: &[i32]) -> (Status, Logps<f32>) {
        let mut out = Logps::default();
        cpu::logps(&batch(), logits, labels.into(), &mut out).unwrap();
        assert_eq!(reference::logps(&batch(), logits, labels.into()).unwrap().status, out.status);
        (out.status, out)
    }

    #[test]
    fn clean() {
        let (status, _) = pass(&LOGITS, &LABELS);
        assert_eq!(status, Status::default());
        status.check().unwrap();
    }

    #[test]
    fn bad_label() {
        for bad in [VOCAB as i32, i32::MAX, -1, i32::MIN] {
            let mut labels = LABELS;
            (labels[3], labels[6]) = (bad, bad);
            let (status, out) = pass(&LOGITS, &labels);
            // The log-prob of a bad label is NaN, so this is also the first row without a finite one.
            assert_eq!(status, Status { bad_label: Some(3), nonfinite_row: Some(3), ..Status::default() });
            let text = "bad data: label out of range, first in row 3; non-finite log-prob, first in row 3";
            refused!(status.check(), Data, text);
            assert!(out.token_logps[3].is_nan() && out.logps[1].is_nan() && out.logps[0].is_finite());

            let mut dlogits = LOGITS;
            let labels = labels[..].into();
            cpu::backward_in_place(&batch(), &mut dlogits, labels, BackwardInputs::new(&out, &[1.0; 4]))
                .unwrap();
            assert!(dlogits[3 * VOCAB..4 * VOCAB].iter().all(|g| g.is_nan()), "row 3");
            assert!(dlogits[..3 * VOCAB].iter().all(|g| g.is_finite()), "rows before");
        }
    }

    #[test]
    fn nonfinite_row() {
        for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let mut logits = LOGITS;
            (logits[5 * VOCAB], logits[7 * VOCAB]) = (bad, bad);
            let (status, _) = pass(&logits, &LABELS);
            assert_eq!(status, Status { nonfinite_row: Some(5), ..Status::default() });
            refused!(status.check(), Data, "bad data: non-finite log-prob, first in row 5");
        }
    }

    #[test]
    fn empty_sequence() {
        let mut labels = LABELS;
        labels[4..].fill(-100);
        let (status, out) = pass(&LOGITS, &labels);
        assert_eq!(status, Status { empty_sequence: Some(2), ..Status::default() });
        refused!(status.check(), Data, "bad data: no scored token, first in sequence 2");
        assert_eq!((out.logps[2], out.scored[2]), (0.0, 0));
    }

    #[test]
    fn a_clean_pass_clears_the_status() {
        let mut out = Logps::default();
        cpu::logps(&batch(), &LOGITS, Labels::I32(&[9; ROWS]), &mut out).unwrap();
        assert!(!out.status.is_clean());
        cpu::logps(&batch(), &LOGITS, labels(), &mut out).unwrap();
        assert!(out.status.is_clean());
    }
}

mod candidate_sets {
    use super::*;

    const POLICY: [f64; 2] = [0.5, 0.5];

    #[test]
    fn probabilities() {
        for (policy, problem) in [
            ([0.5, 0.4], "that sum to 1, found a sum of 0.9"),
            ([-0.5, 1.5], "from 0 to 1, found -0.5"),
            ([f64::NAN, 1.0], "from 0 to 1, found NaN"),
        ] {
            let text = |argument: &str| format!("{argument}: expected probabilities {problem}");
            refused!(theory::kl_divergence(&policy, &POLICY), Value, text("policy"));
            refused!(theory::kl_divergence(&POLICY, &policy), Value, text("reference"));
            refused!(theory::rlhf_objective(&policy, &POLICY, &[0.0; 2], 1.0), Value, text("policy"));
            refused!(theory::gibbs_policy(&policy, &[0.0; 2], 1.0), Value, text("reference"));
            refused!(theory::log_partition(&policy, &[0.0; 2], 1.0), Value, text("reference"));
            refused!(theory::reward_from_policy(&policy, &POLICY, 1.0, 0.0), Value, text("policy"));
            refused!(theory::reward_difference(&POLICY, &policy, 1.0, 0, 1), Value, text("reference"));
        }
        let text = "reference: expected probabilities that sum to 1, found a sum of 0";
        refused!(theory::log_partition(&[], &[], 1.0), Value, text);
    }

    #[test]
    fn lengths() {
        let text = "reference: expected 2 elements ([candidates]), found 1";
        refused!(theory::kl_divergence(&POLICY, &[1.0]), Length, text);
        refused!(theory::reward_from_policy(&POLICY, &[1.0], 1.0, 0.0), Length, text);
        let text = "rewards: expected 2 elements ([candidates]), found 3";
        refused!(theory::rlhf_objective(&POLICY, &POLICY, &[0.0; 3], 1.0), Length, text);
        refused!(theory::gibbs_policy(&POLICY, &[0.0; 3], 1.0), Length, text);
    }

    #[test]
    fn beta() {
        for (beta, found) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let text = format!("beta: expected a finite number above 0, found {found}");
            refused!(theory::rlhf_objective(&POLICY, &POLICY, &[0.0; 2], beta), Value, text);
            refused!(theory::gibbs_policy(&POLICY, &[0.0; 2], beta), Value, text);
            refused!(theory::reward_from_policy(&POLICY, &POLICY, beta, 0.0), Value, text);
        }
    }

    #[test]
    fn rewards() {
        for (reward, found) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            let text = format!("rewards: expected finite numbers, found {found}");
            refused!(theory::gibbs_policy(&POLICY, &[0.0, reward], 1.0), Value, text);
        }
    }

    #[test]
    fn log_partition() {
        let text = "log_partition: expected a finite number, found NaN";
        refused!(theory::reward_from_policy(&POLICY, &POLICY, 1.0, f64::NAN), Value, text);
    }

    #[test]
    fn candidates() {
        let text = "chosen: expected a candidate below 2, found 2";
        refused!(theory::reward_difference(&POLICY, &POLICY, 1.0, 2, 0), Value, text);
        let text = "rejected: expected a candidate below 2, found 9";
        refused!(theory::reward_difference(&POLICY, &POLICY, 1.0, 0, 9), Value, text);
    }
}
