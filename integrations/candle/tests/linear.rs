//! The head from hidden states against the same loss of explicit logits, which candle's own product makes of them.

#[path = "common/noise.rs"]
mod noise;

use candle_core::{DType, Device, Result, Tensor, Var};
use dpo_kernels_candle::{
    IGNORE_INDEX, LabelAlignment, LmHead, MetricsLevel, PairInputs, PairLoss, Targets, dpo_loss,
    linear_dpo_loss, linear_sequence_logps, linear_token_logps, sequence_logps, token_logps,
};
use noise::noise;

const VOCAB: usize = 23;
const HIDDEN: usize = 6;

struct Model {
    hidden: Var,
    weight: Var,
    bias: Var,
}

impl Model {
    fn new(dtype: DType) -> Self {
        let var =
            |shape: &[usize], seed| Var::from_tensor(&noise(shape, seed).to_dtype(dtype).unwrap()).unwrap();
        Model { hidden: var(&[4, 5, HIDDEN], 1), weight: var(&[VOCAB, HIDDEN], 2), bias: var(&[VOCAB], 3) }
    }

    /// In f32, so that the logits are rounded no more than the head's.
    fn logits(&self, biased: bool) -> Result<Tensor> {
        let [hidden, weight, bias] =
            [&self.hidden, &self.weight, &self.bias].map(|var| var.to_dtype(DType::F32).unwrap());
        let logits = hidden.broadcast_matmul(&weight.t()?)?;
        if biased { logits.broadcast_add(&bias) } else { Ok(logits) }
    }

    fn head(&self, biased: bool) -> LmHead<'_> {
        let head = LmHead::new(&self.hidden, &self.weight);
        if biased { head.with_bias(&self.bias) } else { head }
    }

    fn gradients(&self, loss: &Tensor, biased: bool) -> Result<Vec<Vec<f32>>> {
        let gradients = loss.backward()?;
        let vars = [Some(&self.hidden), Some(&self.weight), biased.then_some(&self.bias)];
        let flat = |var: &Var| {
            let gradient = gradients.get(var).expect("a gradient");
            assert_eq!(gradient.dtype(), var.dtype());
            gradient.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
        };
        vars.into_iter().flatten().map(flat).collect()
    }
}

fn targets() -> Targets {
    let mut labels: Vec<i64> = (0..20).map(|i| (i * 7) % VOCAB as i64).collect();
    for ignored in [0, 1, 5, 13, 14, 19] {
        labels[ignored] = IGNORE_INDEX;
    }
    let labels = Tensor::from_vec(labels, (4, 5), &Device::Cpu).unwrap();
    Targets::padded(&labels, LabelAlignment::NextToken).unwrap()
}

/// Two roundings to the type, of numbers up to 1 in size.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 2.0 * 4.9e-4,
        _ => 2.0 * 3.9e-3,
    }
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{what}[{i}]: {found:e}, {expected:e}");
    }
}

#[test]
fn the_loss_and_its_gradients_are_those_of_the_logits() -> Result<()> {
    let ref_logps = Tensor::new(&[-9f32, -8.0, -9.5, -7.0], &Device::Cpu)?;
    let inputs = PairInputs::reference(&ref_logps);
    let loss = PairLoss::sigmoid(0.5)?;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for biased in [false, true] {
            // Everything at once, and chunks of one row.
            for budget in [1 << 20, 4 * (VOCAB + 2 * HIDDEN)] {
                let model = Model::new(dtype);
                let targets = targets().with_token_metrics(MetricsLevel::All);
                let expected = dpo_loss(&model.logits(biased)?, &targets, &inputs, &loss)?;
                let head = model.head(biased).with_budget(budget);
                let found = linear_dpo_loss(&head, &targets, &inputs, &loss)?;
                found.status()?.check().unwrap();
                let name = format!("{dtype:?}, bias {biased}, {budget} bytes");
                let (found_loss, expected_loss): (f32, f32) =
                    (found.loss.to_scalar()?, expected.loss.to_scalar()?);
                assert!((found_loss - expected_loss).abs() <= 1e-5, "{name}: {found_loss} {expected_loss}");
                let entropy = |output: &dpo_kernels_candle::DpoOutput| -> Result<Vec<f32>> {
                    output.token_metrics.entropy.as_ref().unwrap().flatten_all()?.to_vec1()
                };
                assert_close(&name, &entropy(&found)?, &entropy(&expected)?, 1e-5);
                // With an upstream factor, and the log-probs in an auxiliary loss.
                let with = |output: &dpo_kernels_candle::DpoOutput| -> Result<Tensor> {
                    (&output.loss * 0.75)? + (output.logps.sum_all()? * -0.01)?
                };
                let expected = model.gradients(&with(&expected)?, biased)?;
                let found = model.gradients(&with(&found)?, biased)?;
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(&name, found, expected, tolerance(dtype));
                    assert!(expected.iter().any(|g| g.abs() > 1e-2), "{name}: too small to tell anything");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn losses_of_ones_own_run_through_the_head() -> Result<()> {
    let (model, targets) = (Model::new(DType::F32), targets());
    let weights = Tensor::new(&[0.5f32, -1.0, 0.0, 2.0], &Device::Cpu)?;
    let expected = (sequence_logps(&model.logits(true)?, &targets)? * &weights)?.sum_all()?;
    let found = (linear_sequence_logps(&model.head(true), &targets)? * &weights)?.sum_all()?;
    for (found, expected) in model.gradients(&found, true)?.iter().zip(model.gradients(&expected, true)?) {
        assert_close("sequences", found, &expected, 1e-5);
    }
    let advantages = noise(&[4, 5], 9);
    let expected = (token_logps(&model.logits(false)?, &targets)? * &advantages)?.sum_all()?;
    let found = (linear_token_logps(&model.head(false), &targets)? * &advantages)?.sum_all()?;
    for (found, expected) in model.gradients(&found, false)?.iter().zip(model.gradients(&expected, false)?) {
        assert_close("tokens", found, &expected, 1e-5);
    }
    Ok(())
}

/// A frozen head gets no gradient, and the hidden states theirs.
#[test]
fn a_detached_weight_is_frozen() -> Result<()> {
    let (model, targets) = (Model::new(DType::F32), targets());
    let loss = PairLoss::sigmoid(0.5)?.without_reference();
    let trained =
        linear_dpo_loss(&model.head(false), &targets, &PairInputs::default(), &loss)?.loss.backward()?;
    let weight = model.weight.as_tensor().detach();
    let head = LmHead::new(&model.hidden, &weight);
    let frozen = linear_dpo_loss(&head, &targets, &PairInputs::default(), &loss)?.loss.backward()?;
    assert!(frozen.get(&model.weight).is_none() && trained.get(&model.weight).is_some());
    let hidden = |gradients: &candle_core::backprop::GradStore| -> Result<Vec<f32>> {
        gradients.get(&model.hidden).unwrap().flatten_all()?.to_vec1()
    };
    assert_close("dX", &hidden(&frozen)?, &hidden(&trained)?, 1e-7);
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let (model, targets) = (Model::new(DType::F32), targets());
    let loss = PairLoss::sigmoid(0.5)?.without_reference();
    let refused = |head: &LmHead<'_>| {
        linear_dpo_loss(head, &targets, &PairInputs::default(), &loss).unwrap_err().to_string()
    };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let (weight, hidden) = (model.weight.as_tensor(), model.hidden.as_tensor());
    for (wrong, name) in [
        (zeros(&[20, HIDDEN], DType::F32), "hidden"),
        (zeros(&[4, 4, HIDDEN], DType::F32), "hidden"),
        (zeros(&[4, 5, HIDDEN], DType::F64), "hidden (f32, f16 or bf16)"),
    ] {
        let error = refused(&LmHead::new(&wrong, weight));
        assert!(error.starts_with(name), "{error}");
    }
    for wrong in [
        zeros(&[VOCAB, HIDDEN + 1], DType::F32),
        zeros(&[VOCAB, HIDDEN], DType::BF16),
        zeros(&[HIDDEN], DType::F32),
    ] {
        let error = refused(&LmHead::new(hidden, &wrong));
        assert!(error.starts_with("weight"), "{error}");
    }
    for wrong in [zeros(&[VOCAB + 1], DType::F32), zeros(&[VOCAB], DType::F16)] {
        let error = refused(&LmHead::new(hidden, weight).with_bias(&wrong));
        assert!(error.starts_with("bias"), "{error}");
    }
    let error = refused(&LmHead::new(hidden, weight).with_budget(10));
    assert!(
        error.starts_with("budget_bytes: expected at least 140, the bytes of one row, found 10"),
        "{error}"
    );
    Ok(())
}
