//! The fused gradient against plain candle autograd on the same model: an embedding and a linear head.

#[path = "common/noise.rs"]
mod noise;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::log_softmax;
use dpo_kernels_candle::{
    IGNORE_INDEX, LabelAlignment, PairInputs, PairLoss, Pairs, Targets, dpo_loss, sequence_logps,
};
use noise::noise;

const VOCAB: usize = 13;
const DIM: usize = 6;
const LEN: usize = 5;
const BETA: f64 = 0.3;

struct Model {
    embedding: Var,
    head: Var,
    dtype: DType,
}

impl Model {
    fn new(dtype: DType) -> Self {
        let embedding = Var::from_tensor(&noise(&[VOCAB, DIM], 1)).unwrap();
        Model { embedding, head: Var::from_tensor(&noise(&[DIM, VOCAB], 2)).unwrap(), dtype }
    }

    /// Logits `[rows, V]`, rounded to the model's type.
    fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        let hidden = self.embedding.embedding(&Tensor::new(tokens, &Device::Cpu)?)?;
        hidden.matmul(&self.head)?.to_dtype(self.dtype)
    }

    /// Gradients of `loss` by embedding and head.
    fn gradients(&self, loss: &Tensor) -> Result<[Vec<f32>; 2]> {
        let gradients = loss.backward()?;
        let flat = |var: &Var| gradients.get(var).unwrap().flatten_all()?.to_vec1();
        Ok([flat(&self.embedding)?, flat(&self.head)?])
    }
}

/// A batch of four sequences, as plain data: what the fused and the plain computation start from.
struct Case {
    tokens: Vec<u32>,
    /// Per sequence, the rows that are scored and what they predict.
    scored: [Vec<(u32, u32)>; 4],
    /// (chosen, rejected) sequences.
    pairs: [(usize, usize); 2],
    ref_logps: Option<[f32; 4]>,
    label_smoothing: f64,
    length_normalized: bool,
}

impl Case {
    /// Sequences of `lens` tokens at `starts`; the last token of the second one is not scored.
    fn new(starts: [usize; 4], lens: [usize; 4], rows: usize) -> Self {
        let tokens: Vec<u32> = (0..rows as u32).map(|i| (i * i + 3 * i + 1) % VOCAB as u32).collect();
        let scored = std::array::from_fn(|s| {
            let end = starts[s] + lens[s] - usize::from(s == 1);
            (starts[s]..end - 1).map(|row| (row as u32, tokens[row + 1])).collect()
        });
        Case {
            tokens,
            scored,
            pairs: [(0, 2), (1, 3)],
            ref_logps: Some([-9.0, -8.5, -9.5, -10.0]),
            label_smoothing: 0.0,
            length_normalized: false,
        }
    }

    fn padded() -> Self {
        Case::new([0, LEN, 2 * LEN, 3 * LEN], [LEN; 4], 4 * LEN)
    }

    /// Labels that are not shifted: the tokens, where the row before is scored.
    fn labels(&self) -> Vec<i64> {
        let mut labels = vec![IGNORE_INDEX; self.tokens.len()];
        for &(row, label) in self.scored.iter().flatten() {
            labels[row as usize + 1] = i64::from(label);
        }
        labels
    }

    fn padded_targets(&self) -> Result<Targets> {
        let labels = Tensor::from_vec(self.labels(), (4, LEN), &Device::Cpu)?;
        Targets::padded(&labels, LabelAlignment::NextToken)
    }

    fn loss(&self) -> PairLoss {
        let loss = PairLoss::sigmoid(BETA as f32).unwrap();
        let loss = loss.with_label_smoothing(self.label_smoothing as f32).unwrap();
        let loss = if self.ref_logps.is_some() { loss } else { loss.without_reference() };
        if self.length_normalized { loss.with_length_normalization() } else { loss }
    }

    fn ref_logps(&self) -> Option<Tensor> {
        self.ref_logps.map(|ref_logps| Tensor::new(&ref_logps, &Device::Cpu).unwrap())
    }

    /// The loss by log_softmax, gather and the formula, in f32.
    fn plain_loss(&self, logits: &Tensor) -> Result<Tensor> {
        let log_probs = log_softmax(&logits.to_dtype(DType::F32)?, D::Minus1)?;
        let ratio = |s: usize| {
            let (rows, labels): (Vec<u32>, Vec<u32>) = self.scored[s].iter().copied().unzip();
            let length = if self.length_normalized { rows.len() as f64 } else { 1.0 };
            let labels = Tensor::new(labels, &Device::Cpu)?.unsqueeze(1)?;
            let logp = log_probs
                .index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?
                .gather(&labels, 1)?
                .sum_all()?;
            let ref_logp = self.ref_logps.map_or(0.0, |ref_logps| f64::from(ref_logps[s]));
            (logp - ref_logp)? * (BETA / length)
        };
        // −log σ(x)
        let cost = |x: Tensor| ((x.neg()?.exp()? + 1.0)?).log();
        let mut sum = Tensor::new(0f32, &Device::Cpu)?;
        for (w, l) in self.pairs {
            let margin = (ratio(w)? - ratio(l)?)?;
            sum = (sum + (cost(margin.clone())? * (1.0 - self.label_smoothing))?)?;
            sum = (sum + (cost(margin.neg()?)? * self.label_smoothing)?)?;
        }
        sum / self.pairs.len() as f64
    }
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    let scale = expected.iter().fold(0f32, |scale, x| scale.max(x.abs()));
    assert!(scale > 1e-3, "the expected values say something");
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * scale, "element {i}: {found}, expected {expected}");
    }
}

fn reference(ref_logps: &Option<Tensor>) -> PairInputs<'_> {
    PairInputs { ref_logps: ref_logps.as_ref(), ..PairInputs::default() }
}

/// Loss and gradients of the fused operation against plain autograd, `upstream` times.
fn check(case: &Case, targets: &Targets, shape: &[usize], model: &Model, upstream: f64, tolerance: f32) {
    let plain = (case.plain_loss(&model.logits(&case.tokens).unwrap()).unwrap() * upstream).unwrap();
    let logits = model.logits(&case.tokens).unwrap().reshape([shape, &[VOCAB]].concat()).unwrap();
    let ref_logps = case.ref_logps();
    let output = dpo_loss(&logits, targets, &reference(&ref_logps), &case.loss()).unwrap();
    assert!(output.status().unwrap().is_clean());
    let fused = (&output.loss * upstream).unwrap();

    let scalar = |loss: &Tensor| [loss.to_scalar::<f32>().unwrap()];
    assert_close(&scalar(&fused), &scalar(&plain), 4e-6);
    let (found, expected) = (model.gradients(&fused).unwrap(), model.gradients(&plain).unwrap());
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(found, expected, tolerance);
    }
}

/// f32 sums of a few dozen terms, taken in two orders.
const F32_TOLERANCE: f32 = 1e-5;

fn check_padded(case: Case) {
    check(&case, &case.padded_targets().unwrap(), &[4, LEN], &Model::new(DType::F32), 1.0, F32_TOLERANCE);
}

#[test]
fn dpo() {
    check_padded(Case::padded());
}

#[test]
fn reference_free() {
    check_padded(Case { ref_logps: None, ..Case::padded() });
}

#[test]
fn label_smoothing() {
    check_padded(Case { label_smoothing: 0.2, ..Case::padded() });
}

#[test]
fn length_normalized() {
    check_padded(Case { length_normalized: true, ..Case::padded() });
}

#[test]
fn upstream_gradient() {
    let case = Case::padded();
    check(&case, &case.padded_targets().unwrap(), &[4, LEN], &Model::new(DType::F32), 3.0, F32_TOLERANCE);
}

#[test]
fn half_precision_logits() {
    // The gradient of each logit is rounded once by either side, plain autograd where it casts back.
    for (dtype, epsilon) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let case = Case::padded();
        check(&case, &case.padded_targets().unwrap(), &[4, LEN], &Model::new(dtype), 1.0, epsilon);
    }
}

#[test]
fn interleaved_pairs() {
    let case = Case { pairs: [(0, 1), (2, 3)], ..Case::padded() };
    let targets = case.padded_targets().unwrap().with_pairs(Pairs::Interleaved).unwrap();
    check(&case, &targets, &[4, LEN], &Model::new(DType::F32), 1.0, F32_TOLERANCE);
}

#[test]
fn indexed_pairs() {
    // Sequence 0 stands in both pairs.
    let case = Case { pairs: [(3, 0), (0, 2)], ..Case::padded() };
    let chosen = Tensor::new(&[3u32, 0], &Device::Cpu).unwrap();
    let rejected = Tensor::new(&[0i64, 2], &Device::Cpu).unwrap();
    let targets = case.padded_targets().unwrap().with_pairs(Pairs::Indexed { chosen, rejected }).unwrap();
    check(&case, &targets, &[4, LEN], &Model::new(DType::F32), 1.0, F32_TOLERANCE);
}

#[test]
fn packed_sequences() {
    let case = Case::new([0, 4, 10, 13], [4, 6, 3, 5], 18);
    let cu_seqlens = Tensor::new(&[0u32, 4, 10, 13, 18], &Device::Cpu).unwrap();
    let labels = Tensor::new(case.labels(), &Device::Cpu).unwrap();
    let targets = Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken).unwrap();
    check(&case, &targets, &[18], &Model::new(DType::F32), 1.0, F32_TOLERANCE);
}

#[test]
fn aligned_labels_of_every_type() {
    let case = Case::padded();
    let mut aligned = vec![VOCAB as i64; case.tokens.len()];
    for &(row, label) in case.scored.iter().flatten() {
        aligned[row as usize] = i64::from(label);
    }
    let labels = Tensor::from_vec(aligned, (4, LEN), &Device::Cpu).unwrap();
    for dtype in [DType::I64, DType::I32, DType::U32] {
        let targets = Targets::padded(&labels.to_dtype(dtype).unwrap(), LabelAlignment::Aligned)
            .unwrap()
            .with_ignore_index(VOCAB as i64);
        check(&case, &targets, &[4, LEN], &Model::new(DType::F32), 1.0, F32_TOLERANCE);
    }
}

/// Loss and gradient where the logits are a `view` of something larger, against a dense copy of them.
fn check_view(shape: &[usize], view: fn(&Tensor) -> Result<Tensor>) {
    let case = Case::padded();
    let targets = case.padded_targets().unwrap();
    let base = Var::from_tensor(&noise(shape, 3)).unwrap();
    let dense = Var::from_tensor(&view(&base).unwrap().force_contiguous().unwrap()).unwrap();
    let ref_logps = case.ref_logps();
    let run = |logits: &Tensor| dpo_loss(logits, &targets, &reference(&ref_logps), &case.loss()).unwrap();
    let (by_view, by_copy) = (run(&view(&base).unwrap()).loss, run(&dense).loss);
    assert_eq!(by_view.to_scalar::<f32>().unwrap(), by_copy.to_scalar::<f32>().unwrap());

    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let gradient = by_view.backward().unwrap().remove(&base).unwrap();
    let expected = values(&by_copy.backward().unwrap().remove(&dense).unwrap());
    assert_eq!(values(&view(&gradient).unwrap()), expected);
    // Nothing runs to what the view leaves out.
    let total = |values: Vec<f32>| values.iter().map(|value| value.abs()).sum::<f32>();
    assert!((total(values(&gradient)) - total(expected)).abs() < 1e-6);
}

#[test]
fn views_of_larger_tensors() {
    check_view(&[4, LEN, VOCAB + 3], |base| base.narrow(2, 1, VOCAB));
    check_view(&[4, LEN + 2, VOCAB], |base| base.narrow(1, 1, LEN));
    check_view(&[LEN, 4, VOCAB], |base| base.transpose(0, 1));
}

#[test]
fn outputs_agree_with_each_other() {
    let (case, model) = (Case::padded(), Model::new(DType::F32));
    let logits = model.logits(&case.tokens).unwrap().reshape((4, LEN, VOCAB)).unwrap();
    let targets = case.padded_targets().unwrap();
    let ref_logps = sequence_logps(&logits, &targets).unwrap();
    let output = dpo_loss(&logits, &targets, &PairInputs::reference(&ref_logps), &case.loss()).unwrap();

    let vector = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap();
    assert_eq!(vector(&output.logps), vector(&ref_logps));
    for zeros in [&output.chosen_rewards, &output.rejected_rewards, &output.margins] {
        assert_eq!(vector(zeros), [0.0; 2]);
    }
    let metrics = output.metrics().unwrap();
    assert_eq!(metrics.loss, output.loss.to_scalar::<f32>().unwrap());
    assert_eq!((metrics.margin, metrics.accuracy), (0.0, 0.0));
    assert_eq!(vector(&output.pair_losses), [2f32.ln(); 2]);
    // −β σ(0) ÷ 2 pairs for the chosen sequences, the opposite for the rejected ones.
    let coef = BETA as f32 / 4.0;
    assert_close(&vector(&output.coef), &[-coef, -coef, coef, coef], 1e-6);
}

#[test]
fn a_loss_without_a_normaliser_of_its_own_is_the_mean() {
    let (case, model) = (Case { ref_logps: None, ..Case::padded() }, Model::new(DType::F32));
    let logits = model.logits(&case.tokens).unwrap().reshape((4, LEN, VOCAB)).unwrap();
    let targets = case.padded_targets().unwrap();
    let none = PairInputs::default();
    let value = |loss: PairLoss| dpo_loss(&logits, &targets, &none, &loss).unwrap().metrics().unwrap().loss;
    let mean = value(case.loss());
    assert_eq!(value(case.loss().with_normalizer(8.0).unwrap()) * 4.0, mean);
}
