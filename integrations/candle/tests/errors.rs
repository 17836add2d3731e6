//! What is refused, and how it is said.

use candle_core::{DType, Device, Error, Result, Tensor};
use dpo_kernels_candle::{
    LabelAlignment, MetricsLevel, PairInputs, PairLoss, Pairs, Status, Targets, Transform, dpo_loss,
    sequence_logps, token_logps, token_metrics,
};

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

fn padded(labels: &Tensor) -> Result<Targets> {
    Targets::padded(labels, LabelAlignment::NextToken)
}

fn packed(labels: &Tensor, cu_seqlens: &Tensor) -> Result<Targets> {
    Targets::packed(labels, cu_seqlens, LabelAlignment::NextToken)
}

fn targets() -> Targets {
    padded(&zeros(&[2, 3], DType::I64)).unwrap()
}

/// Of log-probs alone, where a test is not about the reference.
fn loss() -> PairLoss {
    PairLoss::sigmoid(0.1).unwrap().without_reference()
}

/// The message of an error, without the backtrace that candle may add.
fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string().lines().next().unwrap().to_string()
}

#[test]
fn errors_of_the_loss_become_candle_s() {
    let made = |beta: f64| -> Result<PairLoss> { Ok(PairLoss::sigmoid(beta)?.with_gamma(0.5)?) };
    assert!(made(0.1).is_ok());
    assert_eq!(message(made(0.0)), "beta: expected a finite number above 0, found 0");
}

#[test]
fn logits_of_another_type_shape_or_rank() {
    let run = |logits: Tensor| {
        let by_loss = dpo_loss(&logits, &targets(), &PairInputs::default(), &loss()).unwrap_err();
        for other in [sequence_logps, token_logps] {
            let other = message(other(&logits, &targets()));
            assert!(by_loss.to_string().starts_with(&other), "{other}");
        }
        Err::<(), _>(by_loss)
    };
    let wrong_type = run(zeros(&[2, 3, 5], DType::F64)).unwrap_err();
    assert!(matches!(wrong_type, Error::UnexpectedDType { got: DType::F64, .. }));
    assert!(wrong_type.to_string().starts_with("logits (f32, f16 or bf16)"));
    let wrong_shape = run(zeros(&[2, 4, 5], DType::F32)).unwrap_err();
    assert!(matches!(wrong_shape, Error::UnexpectedShape { .. }));
    assert!(wrong_shape.to_string().starts_with("logits"));
    assert!(message(run(zeros(&[6, 5], DType::F32))).starts_with("logits"));
    assert!(message(run(zeros(&[2, 3, 0], DType::F32))).starts_with("vocab: expected between 1"));
}

#[test]
fn labels_and_indices_of_another_type_or_rank() {
    assert!(message(padded(&zeros(&[2, 3], DType::F32))).starts_with("labels (i64, i32 or u32)"));
    assert!(message(padded(&zeros(&[6], DType::I64))).starts_with("labels"));
    let labels = zeros(&[6], DType::I64);
    let cu_seqlens = |shape: &[usize], dtype| message(packed(&labels, &zeros(shape, dtype)));
    assert!(cu_seqlens(&[3], DType::F32).starts_with("cu_seqlens (i64, i32 or u32)"));
    assert!(cu_seqlens(&[3, 1], DType::I64).starts_with("cu_seqlens"));
    let indexed = |chosen, rejected| {
        let (chosen, rejected) = (zeros(&[1], chosen), zeros(&[1], rejected));
        message(targets().with_pairs(Pairs::Indexed { chosen, rejected }))
    };
    assert!(indexed(DType::F32, DType::I64).starts_with("chosen (i64, i32 or u32)"));
    assert!(indexed(DType::I64, DType::U8).starts_with("rejected (i64, i32 or u32)"));
}

#[test]
fn ref_logps_of_another_type_or_shape() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let run = |ref_logps: Tensor| {
        let loss = PairLoss::sigmoid(0.1).unwrap();
        message(dpo_loss(&logits, &targets(), &PairInputs::reference(&ref_logps), &loss))
    };
    assert!(run(zeros(&[2], DType::BF16)).starts_with("ref_logps"));
    assert!(run(zeros(&[3], DType::F32)).starts_with("ref_logps"));
}

#[test]
fn inputs_of_another_type_or_shape() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let run = |inputs: PairInputs| message(dpo_loss(&logits, &targets(), &inputs, &loss()));
    let kl_logps = zeros(&[3], DType::F32);
    let mismatched = PairInputs { kl_logps: Some(&kl_logps), ..PairInputs::default() };
    // Of two sequences in one pair, for each field one of the wrong type and one of the wrong shape.
    macro_rules! refused {
        ($($field:ident: $dtype:ident $shape:expr),* $(,)?) => {$(
            for wrong in [zeros(&$shape, DType::F64), zeros(&[7], DType::$dtype)] {
                let inputs = PairInputs { $field: Some(&wrong), ..mismatched };
                assert!(run(inputs).starts_with(stringify!($field)), stringify!($field));
            }
        )*};
    }
    refused!(
        ref_logps: F32 [2], lengths: U32 [2], beta: F32 [1], gamma: F32 [1], weight: F32 [1],
        label_smoothing: F32 [1], sequence_log_weights: F32 [2], kl_ref_logps: F32 [3], normalizer: F32 [],
        chosen_tokens: F32 [],
    );
    let matrix = zeros(&[3, 1], DType::F32);
    assert!(run(PairInputs { kl_logps: Some(&matrix), ..PairInputs::default() }).starts_with("kl_logps"));
}

#[test]
fn inputs_that_the_loss_has_no_use_for_or_lacks() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let run = |inputs: PairInputs, loss: PairLoss| message(dpo_loss(&logits, &targets(), &inputs, &loss));
    let one = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let number = |value: f32| Tensor::new(value, &Device::Cpu).unwrap();
    let none = PairInputs::default;
    let apo = PairLoss::apo_zero(0.1).unwrap();
    assert!(run(PairInputs { gamma: Some(&one), ..none() }, apo).starts_with("gamma: expected none"));
    let without = run(PairInputs { chosen_tokens: Some(&number(4.0)), ..none() }, loss());
    assert!(without.starts_with("chosen_tokens: expected none, for a loss that does not count them"));
    let sigmoid = run(none(), PairLoss::sigmoid(0.1).unwrap());
    assert!(sigmoid.starts_with("ref_logps: required when the loss compares with a reference"), "{sigmoid}");
    let beta = run(PairInputs { beta: Some(&one), ..none() }, PairLoss::nll());
    assert!(beta.starts_with("beta: expected none, for a loss of log-probs"), "{beta}");
    assert!(
        run(none(), PairLoss::kto(0.1).unwrap().without_reference())
            .starts_with("kl_logps: required when the loss compares with a baseline")
    );
    // Values, which the CPU sees.
    let zero = zeros(&[1], DType::F32);
    let beta = run(PairInputs { beta: Some(&zero), ..none() }, loss());
    assert_eq!(beta, "beta: expected finite numbers above 0, found 0 at 0");
    let normalizer = run(PairInputs { normalizer: Some(&number(-1.0)), ..none() }, loss());
    assert!(normalizer.starts_with("normalizer: expected a finite number above 0, found -1"));
}

#[test]
fn transforms_and_weights_out_of_range() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let run = |targets: Targets| {
        let by_loss = message(dpo_loss(&logits, &targets, &PairInputs::default(), &loss()));
        assert_eq!(message(sequence_logps(&logits, &targets)), by_loss);
        assert_eq!(message(token_logps(&logits, &targets)), by_loss);
        assert_eq!(message(token_metrics(&logits, &targets, MetricsLevel::All)), by_loss);
        by_loss
    };
    let transform = |transform| run(targets().with_transform(transform));
    let scale = Transform { scale: 0.0, ..Transform::default() };
    assert!(transform(scale).starts_with("transform.scale: expected a finite number above 0"));
    let softcap = Transform { softcap: Some(f32::NAN), ..Transform::default() };
    assert!(transform(softcap).starts_with("transform.softcap: expected a finite number above 0"));
    let valid_vocab = Transform { valid_vocab: Some(6), ..Transform::default() };
    assert!(transform(valid_vocab).starts_with("transform.valid_vocab: expected between 1 and vocab = 5"));
    assert!(run(targets().with_ld_alpha(1.5)).starts_with("ld_alpha: expected a number from 0 to 1"));
    let indices = || zeros(&[1], DType::I64);
    let indexed = targets().with_pairs(Pairs::Indexed { chosen: indices(), rejected: indices() }).unwrap();
    assert!(run(indexed.with_ld_alpha(0.5)).starts_with("pairs: expected concatenated or interleaved"));
}

#[test]
fn tokens_that_are_not_those_of_the_labels() {
    let keys = |tokens: Tensor| message(targets().sequence_keys(&tokens));
    assert!(keys(zeros(&[2, 3], DType::F32)).starts_with("tokens (u32 or i64)"));
    assert!(keys(zeros(&[2, 4], DType::U32)).starts_with("tokens"));
}

#[test]
fn layouts_that_make_no_pairs() {
    let logits = zeros(&[3, 2, 5], DType::F32);
    let odd = padded(&zeros(&[3, 2], DType::I64)).unwrap();
    assert!(
        message(dpo_loss(&logits, &odd, &PairInputs::default(), &loss()))
            .starts_with("sequences: expected an even number")
    );
    let none = odd.clone().with_pairs(Pairs::None).unwrap();
    assert!(message(dpo_loss(&logits, &none, &PairInputs::default(), &loss())).starts_with("pairs"));
    // A pass without pairs does not mind.
    assert_eq!(sequence_logps(&logits, &odd).unwrap().dims(), [3]);

    let labels = zeros(&[6], DType::I64);
    let backwards = Tensor::new(&[0i64, 7, 6], &Device::Cpu).unwrap();
    let backwards = packed(&labels, &backwards).unwrap();
    let logits = zeros(&[6, 5], DType::F32);
    assert!(
        message(dpo_loss(&logits, &backwards, &PairInputs::default(), &loss())).starts_with("cu_seqlens[1]")
    );
}

#[test]
fn trouble_in_the_data_is_in_the_status() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let labels = Tensor::new(&[[0i64, 1, 5], [-100, -100, -100]], &Device::Cpu).unwrap();
    let output = dpo_loss(&logits, &padded(&labels).unwrap(), &PairInputs::default(), &loss()).unwrap();
    let Status { bad_label, nonfinite_row, empty_sequence, .. } = output.status().unwrap();
    assert_eq!((bad_label, nonfinite_row, empty_sequence), (Some(1), Some(1), Some(1)));
    assert!(output.metrics().unwrap().loss.is_nan());
}
