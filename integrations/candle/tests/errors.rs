//! What is refused, and how it is said.

use candle_core::{DType, Device, Error, Tensor};
use dpo_kernels_candle::{PairLoss, Pairs, Status, Targets, dpo_loss, sequence_logps};

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

fn targets() -> Targets {
    Targets::padded(&zeros(&[2, 3], DType::I64)).unwrap()
}

fn loss() -> PairLoss {
    PairLoss::sigmoid(0.1).unwrap()
}

/// The message of an error, with whatever context it has.
fn message<T>(result: candle_core::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn logits_of_another_type_shape_or_rank() {
    let run = |logits: Tensor| dpo_loss(&logits, &targets(), None, &loss()).map(|_| ());
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
    assert!(message(Targets::padded(&zeros(&[2, 3], DType::F32))).starts_with("labels (i64, i32 or u32)"));
    assert!(message(Targets::padded(&zeros(&[6], DType::I64))).starts_with("labels"));
    let labels = zeros(&[6], DType::I64);
    let cu_seqlens = |shape: &[usize], dtype| message(Targets::packed(&labels, &zeros(shape, dtype)));
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
    let run = |ref_logps: Tensor| message(dpo_loss(&logits, &targets(), Some(&ref_logps), &loss()));
    assert!(run(zeros(&[2], DType::BF16)).starts_with("ref_logps"));
    assert!(run(zeros(&[3], DType::F32)).starts_with("ref_logps"));
}

#[test]
fn layouts_that_make_no_pairs() {
    let logits = zeros(&[3, 2, 5], DType::F32);
    let odd = Targets::padded(&zeros(&[3, 2], DType::I64)).unwrap();
    assert!(
        message(dpo_loss(&logits, &odd, None, &loss())).starts_with("sequences: expected an even number")
    );
    let none = odd.clone().with_pairs(Pairs::None).unwrap();
    assert!(message(dpo_loss(&logits, &none, None, &loss())).starts_with("pairs"));
    // A pass without pairs does not mind.
    assert_eq!(sequence_logps(&logits, &odd).unwrap().dims(), [3]);

    let labels = zeros(&[6], DType::I64);
    let backwards = Tensor::new(&[0i64, 7, 6], &Device::Cpu).unwrap();
    let backwards = Targets::packed(&labels, &backwards).unwrap();
    let logits = zeros(&[6, 5], DType::F32);
    assert!(message(dpo_loss(&logits, &backwards, None, &loss())).starts_with("cu_seqlens[1]"));
}

#[test]
fn trouble_in_the_data_is_in_the_status() {
    let logits = zeros(&[2, 3, 5], DType::F32);
    let labels = Tensor::new(&[[0i64, 1, 5], [-100, -100, -100]], &Device::Cpu).unwrap();
    let output = dpo_loss(&logits, &Targets::padded(&labels).unwrap(), None, &loss()).unwrap();
    let Status { bad_label, nonfinite_row, empty_sequence, .. } = output.status().unwrap();
    assert_eq!((bad_label, nonfinite_row, empty_sequence), (Some(1), Some(1), Some(1)));
    assert!(output.metrics().unwrap().loss.is_nan());
}
