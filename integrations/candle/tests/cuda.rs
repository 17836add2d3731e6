//! The operation on a GPU against the operation on the CPU. Without a GPU it says so and passes.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Result, Tensor, Var};
use dpo_kernels_candle::{
    DpoOutput, PairInputs, PairLoss, Pairs, Targets, Transform, dpo_loss, dpo_loss_with, sequence_logps,
    token_metrics,
};

const VOCAB: usize = 1003;

fn gpu() -> Option<Device> {
    let device = Device::new_cuda(0);
    if let Err(error) = &device {
        println!("1 GPU test skipped: {error}");
    }
    device.ok()
}

/// Numbers from −4 to 4.
fn logits(shape: &[usize], dtype: DType) -> Result<Tensor> {
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|i| (i * 7919 % 2003) as f32 / 250.0 - 4.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

fn labels(rows: usize) -> Vec<i64> {
    (0..rows).map(|row| if row % 5 == 2 { -100 } else { (row * 389 % VOCAB) as i64 }).collect()
}

/// Loss and gradient by `logits`, three times as large, on `device`; with every per-pair value, or with none.
fn pass(logits: &Tensor, targets: &Targets, extras: bool, device: &Device) -> Result<(DpoOutput, Tensor)> {
    let logits = Var::from_tensor(&logits.to_device(device)?)?;
    let view = logits.narrow(logits.rank() - 1, 0, VOCAB)?;
    let loss = PairLoss::sigmoid(0.1).unwrap().with_label_smoothing(0.1).unwrap();
    let ref_logps = (sequence_logps(&view, targets)? * 0.9)?;
    let output = if extras {
        let vector = |values: &[f32]| Tensor::new(values, device).map(Some);
        let inputs = PairInputs {
            ref_logps: Some(ref_logps),
            beta: vector(&[0.2, 0.5])?,
            gamma: vector(&[0.5, -0.25])?,
            weight: vector(&[2.0, 0.5])?,
            label_smoothing: vector(&[0.1, 0.3])?,
            sequence_log_weights: Some(token_metrics(&view, targets)?.sequence_log_weights),
            normalizer: Some(Tensor::new(5f32, device)?),
            ..PairInputs::default()
        };
        dpo_loss_with(&view, targets, &inputs, &loss)?
    } else {
        dpo_loss(&view, targets, Some(&ref_logps), &loss)?
    };
    let gradient = (&output.loss * 3.0)?.backward()?.remove(&logits).expect("a gradient");
    Ok((output, gradient))
}

/// What both devices compute from the same values agrees within `tolerance` of the largest.
fn assert_close(name: &str, gpu: &Tensor, cpu: &Tensor, tolerance: f32) -> Result<()> {
    let values = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (gpu, cpu) = (values(gpu)?, values(cpu)?);
    let scale = cpu.iter().fold(0f32, |scale, x| scale.max(x.abs()));
    for (i, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
        assert!((gpu - cpu).abs() <= tolerance * scale, "{name}[{i}]: {gpu} on the GPU, {cpu} on the CPU");
    }
    Ok(())
}

fn check(
    logits: &Tensor,
    targets: impl Fn(&Device) -> Result<Targets>,
    extras: bool,
    gpu: &Device,
) -> Result<()> {
    let (on_gpu, gpu_gradient) = pass(logits, &targets(gpu)?, extras, gpu)?;
    let (on_cpu, cpu_gradient) = pass(logits, &targets(&Device::Cpu)?, extras, &Device::Cpu)?;
    assert_eq!(on_gpu.status()?, on_cpu.status()?);
    assert_eq!(on_gpu.metrics()?.loss, on_gpu.loss.to_scalar::<f32>()?);
    assert_eq!(on_gpu.metrics()?.accuracy, on_cpu.metrics()?.accuracy);
    for (name, gpu, cpu) in [
        ("loss", &on_gpu.loss, &on_cpu.loss),
        ("logps", &on_gpu.logps, &on_cpu.logps),
        ("margins", &on_gpu.margins, &on_cpu.margins),
        ("chosen_rewards", &on_gpu.chosen_rewards, &on_cpu.chosen_rewards),
        ("rejected_rewards", &on_gpu.rejected_rewards, &on_cpu.rejected_rewards),
        ("pair_losses", &on_gpu.pair_losses, &on_cpu.pair_losses),
        ("coef", &on_gpu.coef, &on_cpu.coef),
    ] {
        assert_close(name, gpu, cpu, 1e-5)?;
    }
    assert_eq!(on_gpu.token_metrics.is_some(), on_cpu.token_metrics.is_some());
    if let (Some(gpu), Some(cpu)) = (&on_gpu.token_metrics, &on_cpu.token_metrics) {
        assert_close("entropy", &gpu.entropy, &cpu.entropy, 1e-5)?;
        assert_close("correct", &gpu.correct, &cpu.correct, 0.0)?;
        assert_close("mean_logit", &gpu.mean_logit, &cpu.mean_logit, 1e-5)?;
        assert_close("sum_p2", &gpu.sum_p2, &cpu.sum_p2, 1e-5)?;
        let (of_gpu, of_cpu) = (gpu.means()?, cpu.means()?);
        assert_eq!((of_gpu.scored, of_gpu.accuracy), (of_cpu.scored, of_cpu.accuracy));
        for (gpu, cpu) in [
            (of_gpu.entropy, of_cpu.entropy),
            (of_gpu.mean_logit, of_cpu.mean_logit),
            (of_gpu.logsumexp, of_cpu.logsumexp),
            (of_gpu.sum_p2, of_cpu.sum_p2),
        ] {
            assert!((gpu - cpu).abs() <= 1e-5 * cpu.abs().max(1.0), "{of_gpu:?}, on the CPU {of_cpu:?}");
        }
        assert_close("sequence_log_weights", &gpu.sequence_log_weights, &cpu.sequence_log_weights, 1e-5)?;
    }
    // One rounding to the logits' type on either side.
    let epsilon = match logits.dtype() {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 1e-5,
    };
    assert_close("gradient", &gpu_gradient, &cpu_gradient, epsilon)
}

#[test]
fn gpu_and_cpu_agree() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        // Rows of a padded vocabulary; indices in either type.
        let padded = |device: &Device| {
            let pairs = Pairs::Indexed {
                chosen: Tensor::new(&[3u32, 0], device)?,
                rejected: Tensor::new(&[1i64, 2], device)?,
            };
            Targets::padded(&Tensor::from_vec(labels(24), (4, 6), device)?)?.with_pairs(pairs)
        };
        check(&logits(&[4, 6, VOCAB + 5], dtype)?, padded, false, &gpu)?;

        let packed = |device: &Device| {
            let labels = Tensor::from_vec(labels(20), 20, device)?;
            Targets::packed(&labels, &Tensor::new(&[0u32, 7, 9, 15, 20], device)?)?
                .with_pairs(Pairs::Interleaved)
        };
        check(&logits(&[20, VOCAB], dtype)?, packed, false, &gpu)?;

        let with_extras = |device: &Device| {
            let transform = Transform { scale: 0.8, softcap: Some(3.0), valid_vocab: Some(VOCAB - 3) };
            Ok(packed(device)?.with_transform(transform).with_ld_alpha(0.3).with_token_metrics())
        };
        check(&logits(&[20, VOCAB], dtype)?, with_extras, true, &gpu)?;
    }
    Ok(())
}
