//! What tests of the head share: batches with hidden states and a weight, and how far a backend may be from what is right.
//!
//! The bounds follow from the arithmetic:
//!
//! - a logit, a sum of H products and a bias in f32 in any order, is off by at most γ = (H + 2)·2⁻²⁴ times the sum of the
//!   products' sizes, and by its rounding where logits are of 16 bits; through the transform by δ, as many times its scale;
//! - logsumexp moves no more than the logits, so a log-prob by 2δ, a probability by the factor e^(2δ), and the slope of a soft
//!   cap C by at most δ·s/C;
//! - from there on the theory of all suites holds, and dX, dW and db are sums of products again, whose factors G and c X are
//!   rounded where they are of 16 bits.
#![allow(dead_code)] // every test uses its own part

use dpo_kernels::{
    Coef, DType, EntropyCoef, Forward, HostBatch, IGNORE_INDEX, LabelAlignment, LmHead, Logit, Logps,
    PairInputs, PairLoss, Pairs, Transform, reference,
};

use super::random::Random;
use super::tolerance::gradient::{Coefficient, EntropyPart, stored};
use super::tolerance::pair_arguments::PairArguments;
use super::tolerance::precision::{Precision, UNIT_F32, rounding};
use super::tolerance::sequence::Uncertain;

pub const HIDDEN: usize = 24;
pub const VOCAB: usize = 67;
pub const UPSTREAM: f32 = 1.5;
/// What the gradients of weight and bias start from.
pub const START: f32 = 0.25;

/// A batch with a head and a loss.
pub struct Case<'a> {
    pub name: String,
    pub batch: HostBatch<'a>,
    pub labels: Vec<i64>,
    pub loss: PairLoss,
    pub inputs: PairInputs<'a, f32>,
    pub hidden: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// f32 numbers as f64, exactly.
fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Numbers from −1 to 1 that every type holds exactly.
pub fn mixed(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.symmetric() * 64.0).round() / 64.0).collect()
}

impl<'a> Case<'a> {
    pub fn new(
        name: impl Into<String>,
        batch: HostBatch<'a>,
        loss: PairLoss,
        inputs: PairInputs<'a, f32>,
        biased: bool,
    ) -> Self {
        let mut random = Random(batch.rows() as u64);
        let mut labels: Vec<i64> = (0..batch.rows()).map(|_| random.below(batch.columns()) as i64).collect();
        // Prompts, holes and padding.
        for (row, label) in labels.iter_mut().enumerate() {
            if row % 5 == 0 || row % 7 == 3 {
                *label = IGNORE_INDEX;
            }
        }
        Case {
            name: name.into(),
            batch,
            labels,
            loss,
            inputs,
            hidden: mixed(&mut random, batch.rows() * HIDDEN),
            weight: mixed(&mut random, VOCAB * HIDDEN),
            bias: biased.then(|| mixed(&mut random, VOCAB)),
        }
    }

    pub fn scored(&self) -> usize {
        self.batch.scored_tokens(self.labels[..].into()).unwrap().iter().sum::<u32>() as usize
    }
}

/// What a backend gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub out: Forward,
    pub nonfinite_row: Option<usize>,
    pub hidden: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

pub fn typed<T: Logit>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

/// What is right, and how far a backend may be from it.
pub struct Expected {
    pub logps: Logps<f64>,
    pub loss: f64,
    pub token_errors: Vec<f64>,
    pub loss_error: f64,
    pub hidden: [Vec<f64>; 2],
    pub weight: [Vec<f64>; 2],
    pub bias: [Vec<f64>; 2],
    /// The largest that an element of G W may be, of each element of dX, and the largest that c may be.
    pub unscaled: Vec<[f64; 2]>,
}

impl Expected {
    /// For a backend, which rounds logits to `logits_dtype`, and G and c X to `dtype`, where those are not f32.
    pub fn of(case: &Case<'_>, precision: &Precision, dtype: DType, logits_dtype: DType) -> Self {
        let batch = &case.batch;
        let columns = batch.columns();
        let labels = || case.labels[..].into();
        let (x, w) = (widened(&case.hidden), widened(&case.weight));
        let b = case.bias.as_deref().map(widened);
        let head = LmHead { hidden_size: HIDDEN, hidden: &x, weight: &w, bias: b.as_deref() };
        let logits = case.logits();
        let logps = reference::logps(batch, &logits, labels()).unwrap();
        let wide_inputs: Vec<Vec<f64>> = [case.inputs.ref_logps, case.inputs.weight]
            .map(|given| given.map(widened).unwrap_or_default())
            .into();
        let given = |at: usize, is: bool| is.then_some(&wide_inputs[at][..]);
        let inputs = PairInputs {
            ref_logps: given(0, case.inputs.ref_logps.is_some()),
            weight: given(1, case.inputs.weight.is_some()),
            ..PairInputs::NONE
        };
        let arguments =
            PairArguments { batch, loss: &case.loss, inputs, logps: &logps.logps, scored: &logps.scored };
        let pairs = arguments.evaluate(&logps.logps);

        let scale = f64::from(batch.transform.scale);
        let round = |value: f64| if dtype == DType::F32 { 0.0 } else { rounding(dtype, value) };
        let delta = case.logit_errors(&logits, logits_dtype);
        let bounds = precision.row(columns, &batch.transform);
        let is_scored = |r: usize| logps.token_weights[r] != 0.0 || logps.token_logps[r] != 0.0;
        let token = |r: usize| {
            if !is_scored(r) {
                return Uncertain::default();
            }
            let own = bounds.token(logps.logsumexp[r], logps.token_logps[r]);
            Uncertain { error: own.error + 2.0 * delta[r], ..own }
        };
        let sequence_of = |r: usize| sequence_rows(batch).iter().position(|rows| rows.contains(&r)).unwrap();
        let sequences: Vec<Uncertain> = sequence_rows(batch)
            .into_iter()
            .zip(&logps.logps)
            .map(|(rows, &logp)| precision.sequence(rows.map(|r| token(r) * logps.token_weights[r]), logp))
            .collect();
        let pair_bounds = precision.pair_loss(&arguments, &sequences, 0.0);

        let mut expected = Expected {
            token_errors: (0..batch.rows()).map(|r| token(r).error).collect(),
            loss: pairs.metrics.loss,
            loss_error: pair_bounds.metrics.loss,
            hidden: [vec![0.0; x.len()], vec![0.0; x.len()]],
            weight: [vec![0.0; w.len()], vec![0.0; w.len()]],
            bias: [vec![0.0; VOCAB], vec![0.0; VOCAB]],
            unscaled: vec![[0.0; 2]; x.len()],
            logps: logps.clone(),
        };
        let dlogits = {
            let coef = Coef {
                sequences: Some(&pairs.coef[..]),
                tokens: Some(&logps.token_weights[..]),
                threshold: 0.0,
            };
            reference::backward(batch, &logits, labels(), &logps.logsumexp, coef, UPSTREAM.into()).unwrap()
        };
        let exact = reference::lm_head::gradients(batch, &head, &dlogits).unwrap();
        (expected.hidden[0], expected.weight[0], expected.bias[0]) = (exact.hidden, exact.weight, exact.bias);

        let mut unscaled = vec![0.0; x.len()];
        // Every sum may be taken in any order, and is added to what was there, once a chunk; c is rounded, and so is its
        // product with one of the factors.
        let sum_unit = |terms: usize| sum_unit(batch, terms);
        for r in (0..batch.rows()).filter(|&r| is_scored(r)) {
            let s = sequence_of(r);
            let factor = f64::from(UPSTREAM) * logps.token_weights[r];
            let (c, c_error) = (factor * pairs.coef[s], factor * pair_bounds.coef[s]);
            let one = Coefficient { value: 1.0, error: 0.0 };
            let of_row = bounds.gradient(logits_dtype, logps.logsumexp[r], one);
            for v in 0..columns {
                let z = logits[r * batch.row_stride + v];
                let is_label = case.labels_of(r) == Some(v as i64);
                let slope = batch.transform.slope(z);
                let p = (batch.transform.apply(z) - logps.logsumexp[r]).exp();
                let g = (f64::from(u8::from(is_label)) - p) * slope;
                let bend = batch.transform.softcap.map_or(0.0, |cap| scale / f64::from(cap) * delta[r]);
                let moved = slope * p * (2.0 * delta[r]).exp_m1() + bend;
                let g_error = of_row.element(z, is_label) + moved;
                let g_error = g_error + round(g.abs() + g_error);
                let error = (c.abs() + c_error) * g_error + c_error * g.abs();
                let size = (c.abs() + c_error) * (g.abs() + g_error);
                for k in 0..HIDDEN {
                    let (at_x, at_w) = (r * HIDDEN + k, v * HIDDEN + k);
                    expected.hidden[1][at_x] += (error + sum_unit(columns) * size) * w[at_w].abs();
                    unscaled[at_x] += g * w[at_w];
                    expected.unscaled[at_x][0] +=
                        (g_error + sum_unit(columns) * (g.abs() + g_error)) * w[at_w].abs();
                    expected.unscaled[at_x][1] = c.abs() + c_error;
                    let scaled = round((c.abs() + c_error) * x[at_x].abs() * (1.0 + sum_unit(0)));
                    expected.weight[1][at_w] +=
                        (error + sum_unit(0) * size) * x[at_x].abs() + scaled * (g.abs() + g_error);
                }
                expected.bias[1][v] += error + sum_unit(0) * size;
            }
        }
        for ([largest, _], value) in expected.unscaled.iter_mut().zip(&unscaled) {
            *largest += value.abs();
        }
        for error in expected.weight[1].iter_mut().chain(&mut expected.bias[1]) {
            *error += sum_unit(0) * f64::from(START);
        }
        expected
    }

    pub fn check(&self, case: &Case<'_>, dtype: DType, frozen: bool, found: &Found) {
        let name = format!("{}, {dtype:?}, {}", case.name, if frozen { "frozen" } else { "trained" });
        let within = |what: &str, found: f64, right: f64, error: f64| {
            assert!((found - right).abs() <= error, "{name}: {what}: {found:e}, {right:e} within {error:e}");
        };
        for (r, &token) in found.out.logps.token_logps.iter().enumerate() {
            within(
                &format!("token_logps[{r}]"),
                token.into(),
                self.logps.token_logps[r],
                self.token_errors[r],
            );
        }
        within("loss", found.out.pairs.metrics.loss.into(), self.loss, self.loss_error);
        assert_eq!(found.out.logps.scored, self.logps.scored, "{name}");
        assert!(found.out.logps.status.nonfinite_row.is_none() && found.nonfinite_row.is_none(), "{name}");
        for (i, &value) in found.hidden.iter().enumerate() {
            let row = i / HIDDEN;
            if case.labels_of(row).is_none() {
                assert_eq!(value.to_bits(), 0, "{name}: dX of row {row}, which is not scored");
                continue;
            }
            let [unscaled, c] = self.unscaled[i];
            // A frozen head rounds G W before c comes to it.
            let first = if frozen { c * rounding(dtype, unscaled) } else { 0.0 };
            let error = stored(dtype, self.hidden[0][i], self.hidden[1][i] + first);
            within(&format!("dX[{i}]"), value.into(), self.hidden[0][i], error);
        }
        if frozen {
            assert!(found.weight.iter().chain(&found.bias).all(|&value| value == START), "{name}");
            return;
        }
        let start = f64::from(START);
        for (i, &value) in found.weight.iter().enumerate() {
            within(&format!("dW[{i}]"), value.into(), start + self.weight[0][i], self.weight[1][i]);
        }
        for (i, &value) in found.bias.iter().enumerate() {
            within(&format!("db[{i}]"), value.into(), start + self.bias[0][i], self.bias[1][i]);
        }
    }
}

/// What is right of dX, dW and db, and how far a backend may be from it before it stores them.
pub struct ExpectedGradients([[Vec<f64>; 2]; 3]);

impl ExpectedGradients {
    /// Of `sequences` and `entropies`, ∂L/∂logp of each sequence and ∂L/∂H of each row, for a backend that rounds logits to
    /// `logits_dtype`, and their gradient to `dtype`.
    ///
    /// The part of an entropy, e p (log p + H), moves with logits that are off by δ as p does, by the factor e^(2δ), and as log p and H
    /// do, by 2δ and 2δ ln V; a soft cap's slope moves by δ s/C. Where the gradient of logits is rounded, c and e are fractions of the
    /// larger one, which comes to it later. From there on it is as without entropies.
    pub fn with_entropies(
        case: &Case<'_>,
        precision: &Precision,
        dtype: DType,
        logits_dtype: DType,
        sequences: &[f32],
        entropies: &[f32],
    ) -> Self {
        let (batch, columns) = (&case.batch, case.batch.columns());
        let (x, w) = (widened(&case.hidden), widened(&case.weight));
        let b = case.bias.as_deref().map(widened);
        let head = LmHead { hidden_size: HIDDEN, hidden: &x, weight: &w, bias: b.as_deref() };
        let labels = || case.labels[..].into();
        let (sequences, entropies) = (widened(sequences), widened(entropies));
        let logits = case.logits();
        let exact = reference::logps(batch, &logits, labels()).unwrap();
        let entropy = &exact.metrics.as_ref().unwrap().entropy;
        let upstream = f64::from(UPSTREAM);
        let mut dlogits =
            reference::backward(batch, &logits, labels(), &exact.logsumexp, &sequences, upstream).unwrap();
        let part = EntropyCoef { coef: &entropies, entropy };
        let part =
            reference::entropy_gradient(batch, &logits, labels(), &exact.logsumexp, part, upstream).unwrap();
        dlogits.iter_mut().zip(&part).for_each(|(dlogit, part)| *dlogit += part);
        let right = reference::lm_head::gradients(batch, &head, &dlogits).unwrap();

        let delta = case.logit_errors(&logits, logits_dtype);
        let bounds = precision.row(columns, &batch.transform);
        let mut errors = [vec![0.0; case.hidden.len()], vec![0.0; case.weight.len()], vec![0.0; VOCAB]];
        for r in (0..batch.rows()).filter(|&r| case.labels_of(r).is_some()) {
            let s = sequence_rows(batch).iter().position(|rows| rows.contains(&r)).unwrap();
            let (c, e) = (upstream * sequences[s], upstream * entropies[r]);
            let larger = c.abs().max(e.abs());
            if larger == 0.0 {
                continue;
            }
            let (c, e) = (c / larger, e / larger);
            let coef = Coefficient { value: c, error: 0.0 };
            let mut of_row = bounds.gradient(logits_dtype, exact.logsumexp[r], coef);
            let moved_entropy = 2.0 * delta[r] * (columns as f64).ln();
            let error = bounds.entropy() + moved_entropy;
            of_row.entropy = Some(EntropyPart { coef: e, entropy: entropy[r], error });
            for v in 0..columns {
                let z = logits[r * batch.row_stride + v];
                let (logp, slope) = (batch.transform.apply(z) - exact.logsumexp[r], batch.transform.slope(z));
                let (p, moved) = (logp.exp(), (2.0 * delta[r]).exp_m1());
                let size = logp.abs() + entropy[r];
                let of_entropy = p * (moved * size + (1.0 + moved) * (2.0 * delta[r] + moved_entropy));
                let bend = batch.transform.softcap.map_or(0.0, |cap| {
                    f64::from(batch.transform.scale) / f64::from(cap)
                        * delta[r]
                        * (c.abs() + e.abs() * p * size)
                });
                let moved = slope * (c.abs() * p * moved + e.abs() * of_entropy) + bend;
                let error = of_row.element(z, case.labels_of(r) == Some(v as i64)) + moved;
                let right = dlogits[r * batch.row_stride + v].abs() / larger;
                let error = if dtype == DType::F32 { error } else { stored(dtype, right, error) };
                let size = right + error;
                for k in 0..HIDDEN {
                    let (at_x, at_w) = (r * HIDDEN + k, v * HIDDEN + k);
                    let x = x[at_x].abs();
                    let scaled = if dtype == DType::F32 { 0.0 } else { rounding(dtype, larger * x) };
                    errors[0][at_x] += larger * (error + sum_unit(batch, columns) * size) * w[at_w].abs();
                    errors[1][at_w] += larger * (error + sum_unit(batch, 0) * size) * x + scaled * size;
                }
                errors[2][v] += larger * (error + sum_unit(batch, 0) * size);
            }
        }
        let [of_hidden, of_weight, of_bias] = errors;
        ExpectedGradients([[right.hidden, of_hidden], [right.weight, of_weight], [right.bias, of_bias]])
    }

    /// Of dX in `dtype`, and of dW and db, which were added to [`START`].
    pub fn check(&self, name: &str, case: &Case<'_>, dtype: DType, found: [&[f32]; 3]) {
        let of = [("dX", dtype, 0.0), ("dW", DType::F32, START), ("db", DType::F32, START)];
        for (((what, dtype, start), found), [right, errors]) in of.into_iter().zip(found).zip(&self.0) {
            let start = f64::from(start);
            assert_eq!(found.len(), right.len(), "{name}: {what}");
            for (at, (&found, (right, error))) in found.iter().zip(right.iter().zip(errors)).enumerate() {
                let bound = stored(dtype, start + right, error + sum_unit(&case.batch, 0) * start);
                let off = (f64::from(found) - start - right).abs();
                assert!(off <= bound, "{name}, {what}[{at}]: {found:e}, {right:e} within {bound:e}");
            }
        }
    }
}

/// The relative error of a sum of products of two factors, with one of so many `terms` in one of them, that is added to another as
/// often as the batch has rows.
pub fn sum_unit(batch: &HostBatch<'_>, terms: usize) -> f64 {
    (terms + batch.rows() + 8) as f64 * UNIT_F32
}

impl Case<'_> {
    /// Right logits.
    pub fn logits(&self) -> Vec<f64> {
        let head = LmHead {
            hidden_size: HIDDEN,
            hidden: &self.hidden,
            weight: &self.weight,
            bias: self.bias.as_deref(),
        };
        reference::lm_head::logits(&self.batch, &head).unwrap()
    }

    /// How far the transformed logits of each row may be off: δ.
    pub fn logit_errors(&self, logits: &[f64], dtype: DType) -> Vec<f64> {
        let (batch, columns) = (&self.batch, self.batch.columns());
        let product = |r: usize, v: usize, k: usize| {
            (f64::from(self.hidden[r * HIDDEN + k]) * f64::from(self.weight[v * HIDDEN + k])).abs()
        };
        let of_row = |r: usize| {
            let size = |v: usize| -> f64 {
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[v]).abs());
                (0..HIDDEN).map(|k| product(r, v, k)).sum::<f64>() + bias
            };
            let largest = |of: &dyn Fn(usize) -> f64| (0..columns).map(of).fold(0.0, f64::max);
            let sum = (HIDDEN + 2) as f64 * UNIT_F32 * largest(&size);
            let size = largest(&|v| logits[r * batch.row_stride + v].abs()) + sum;
            let stored = if dtype == DType::F32 { 0.0 } else { rounding(dtype, size) };
            f64::from(batch.transform.scale) * (sum + stored)
        };
        (0..batch.rows()).map(of_row).collect()
    }

    /// The label that a row predicts.
    pub fn labels_of(&self, row: usize) -> Option<i64> {
        let rows = sequence_rows(&self.batch).into_iter().find(|rows| rows.contains(&row)).unwrap();
        let at = row + usize::from(self.batch.label_alignment == LabelAlignment::NextToken);
        (at < rows.end).then(|| self.labels[at]).filter(|&label| label != IGNORE_INDEX)
    }
}

pub fn sequence_rows(batch: &HostBatch<'_>) -> Vec<std::ops::Range<usize>> {
    match batch.sequences {
        dpo_kernels::Sequences::Padded { count, len } => (0..count).map(|s| s * len..(s + 1) * len).collect(),
        dpo_kernels::Sequences::Packed { cu_seqlens, .. } => {
            cu_seqlens.windows(2).map(|ends| ends[0] as usize..ends[1] as usize).collect()
        }
    }
}

pub const REF_LOGPS: [f32; 6] = [-30.0, -25.0, -28.0, -31.0, -20.0, -33.0];
const CU_SEQLENS: [i32; 7] = [0, 9, 14, 29, 29, 41, 50];

/// Layouts, losses of every family, transforms, biases and masks.
pub fn cases() -> Vec<Case<'static>> {
    let reference = PairInputs::reference(&REF_LOGPS);
    let none = PairInputs::NONE;
    let padded = HostBatch::padded(6, 8, VOCAB, LabelAlignment::Aligned);
    let next = HostBatch::padded(6, 8, VOCAB, LabelAlignment::NextToken);
    let packed = HostBatch::packed(&CU_SEQLENS[..], 50, VOCAB, LabelAlignment::Aligned);
    let softcap = Transform { scale: 0.8, softcap: Some(3.0), valid_vocab: Some(61) };
    let sigmoid = || PairLoss::sigmoid(0.3).unwrap();
    let indexed = Pairs::Indexed { chosen: &[0, 0, 3][..], rejected: &[1, 2, 5][..] };
    let unpaired = Pairs::Unpaired { desirable: &[1, 0, 0, 1, 1, 0][..] };
    vec![
        Case::new("sigmoid, padded", padded, sigmoid(), reference, false),
        Case::new("sigmoid, packed, bias", packed, sigmoid(), reference, true),
        Case::new(
            "label smoothing, lengths, next token",
            next,
            sigmoid().with_label_smoothing(0.1).unwrap().with_length_normalization(),
            reference,
            false,
        ),
        Case::new(
            "ipo, scale",
            HostBatch { transform: Transform { scale: 1.5, ..Transform::default() }, ..padded },
            PairLoss::ipo(0.2).unwrap(),
            reference,
            true,
        ),
        Case::new(
            "soft cap, padded vocabulary",
            HostBatch { transform: softcap, ..padded },
            sigmoid(),
            reference,
            true,
        ),
        Case::new(
            "aot",
            HostBatch { pairs: Pairs::Interleaved, ..padded },
            PairLoss::aot(0.3).unwrap(),
            reference,
            false,
        ),
        Case::new("aot_unpaired, bias", padded, PairLoss::aot_unpaired(0.3).unwrap(), reference, true),
        Case::new("orpo", packed, PairLoss::orpo(0.1).unwrap(), none, false),
        Case::new(
            "rpo, tokens",
            padded,
            PairLoss::rpo(0.3, 0.5).unwrap().with_token_normalizer(),
            reference,
            false,
        ),
        Case::new("LD-DPO", HostBatch { ld_alpha: 0.4, ..packed }, sigmoid(), reference, false),
        Case::new(
            "indexed pairs, one sequence in none",
            HostBatch { pairs: indexed, ..padded },
            sigmoid(),
            reference,
            false,
        ),
        Case::new(
            "kto",
            HostBatch { pairs: unpaired, ..padded },
            PairLoss::kto(0.3).unwrap().with_baseline(0.1).unwrap(),
            reference,
            false,
        ),
        Case::new(
            "a pair of weight 0",
            padded,
            sigmoid(),
            PairInputs { weight: Some(&[1.0, 0.0, 0.5]), ..reference },
            false,
        ),
    ]
}
