//! The operation on a GPU against the operation on the CPU. Without a GPU it says so and passes, unless DPO_REQUIRE_GPU is set.
#![cfg(feature = "cuda")]

use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, Var};
use dpo_kernels_candle::{
    DpoOutput, LabelAlignment, LmHead, MetricsLevel, PairInputs, PairLoss, Pairs, Targets, Transform,
    dpo_loss, linear_dpo_loss, linear_sequence_logps, sequence_logps, token_logps, token_metrics,
};

const VOCAB: usize = 1003;

fn gpu() -> Option<Device> {
    let device = Device::new_cuda(0);
    if let Err(error) = &device {
        assert!(std::env::var_os("DPO_REQUIRE_GPU").is_none(), "{error}");
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
        let vector = |values: &[f32]| Tensor::new(values, device);
        let (beta, gamma) = (vector(&[0.2, 0.5])?, vector(&[0.5, -0.25])?);
        let (weight, label_smoothing) = (vector(&[2.0, 0.5])?, vector(&[0.1, 0.3])?);
        let metrics = token_metrics(&view, targets, MetricsLevel::All)?;
        let normalizer = Tensor::new(5f32, device)?;
        let inputs = PairInputs {
            beta: Some(&beta),
            gamma: Some(&gamma),
            weight: Some(&weight),
            label_smoothing: Some(&label_smoothing),
            sequence_log_weights: metrics.sequence_log_weights.as_ref(),
            normalizer: Some(&normalizer),
            ..PairInputs::reference(&ref_logps)
        };
        dpo_loss(&view, targets, &inputs, &loss)?
    } else {
        dpo_loss(&view, targets, &PairInputs::reference(&ref_logps), &loss)?
    };
    let gradient = (&output.loss * 3.0)?.backward()?.remove(&logits).expect("a gradient");
    Ok((output, gradient))
}

/// Log-probs of sequences or tokens on `device`, and the gradient of a sum of them that are weighted unlike.
fn log_probs(
    log_probs: fn(&Tensor, &Targets) -> Result<Tensor>,
    logits: &Tensor,
    targets: &Targets,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let logits = Var::from_tensor(&logits.to_device(device)?)?;
    let logps = log_probs(&logits.narrow(logits.rank() - 1, 0, VOCAB)?, targets)?;
    let coef = Tensor::arange(0f32, logps.elem_count() as f32, device)?.reshape(logps.shape())?;
    let gradient = (&logps * ((coef * 0.5)? - 1.0)?)?.sum_all()?.backward()?.remove(&logits);
    Ok((logps, gradient.expect("a gradient")))
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
    gpu_device: &Device,
) -> Result<()> {
    let (on_gpu, gpu_gradient) = pass(logits, &targets(gpu_device)?, extras, gpu_device)?;
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
    let (gpu, cpu) = (&on_gpu.token_metrics, &on_cpu.token_metrics);
    for (name, gpu, cpu, tolerance) in [
        ("entropy", &gpu.entropy, &cpu.entropy, 1e-5),
        ("correct", &gpu.correct, &cpu.correct, 0.0),
        ("mean_logit", &gpu.mean_logit, &cpu.mean_logit, 1e-5),
        ("sum_p2", &gpu.sum_p2, &cpu.sum_p2, 1e-5),
        ("sequence_log_weights", &gpu.sequence_log_weights, &cpu.sequence_log_weights, 1e-5),
    ] {
        assert_eq!(gpu.is_some(), cpu.is_some(), "{name}");
        if let (Some(gpu), Some(cpu)) = (gpu, cpu) {
            assert_close(name, gpu, cpu, tolerance)?;
        }
    }
    assert_eq!(gpu.mean.is_some(), cpu.mean.is_some());
    if let (Some(gpu), Some(cpu)) = (&gpu.mean, &cpu.mean) {
        let (of_gpu, of_cpu) = (gpu.read()?, cpu.read()?);
        assert_eq!((of_gpu.scored, of_gpu.accuracy), (of_cpu.scored, of_cpu.accuracy));
        for (gpu, cpu) in [
            (of_gpu.entropy, of_cpu.entropy),
            (of_gpu.mean_logit, of_cpu.mean_logit),
            (of_gpu.logsumexp, of_cpu.logsumexp),
            (of_gpu.sum_p2, of_cpu.sum_p2),
        ] {
            assert!((gpu - cpu).abs() <= 1e-5 * cpu.abs().max(1.0), "{of_gpu:?}, on the CPU {of_cpu:?}");
        }
    }
    // One rounding to the logits' type on either side.
    let epsilon = match logits.dtype() {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 1e-5,
    };
    assert_close("gradient", &gpu_gradient, &cpu_gradient, epsilon)?;

    for (name, function) in
        [("sequence_logps", sequence_logps as fn(&_, &_) -> _), ("token_logps", token_logps as _)]
    {
        let (on_gpu, gpu_gradient) = log_probs(function, logits, &targets(gpu_device)?, gpu_device)?;
        let (on_cpu, cpu_gradient) = log_probs(function, logits, &targets(&Device::Cpu)?, &Device::Cpu)?;
        assert_close(name, &on_gpu, &on_cpu, 1e-5)?;
        assert_close(name, &gpu_gradient, &cpu_gradient, epsilon)?;
    }
    Ok(())
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
            let labels = Tensor::from_vec(labels(24), (4, 6), device)?;
            Targets::padded(&labels, LabelAlignment::NextToken)?.with_pairs(pairs)
        };
        check(&logits(&[4, 6, VOCAB + 5], dtype)?, padded, false, &gpu)?;

        let packed = |device: &Device| {
            let labels = Tensor::from_vec(labels(20), 20, device)?;
            let cu_seqlens = Tensor::new(&[0u32, 7, 9, 15, 20], device)?;
            Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken)?.with_pairs(Pairs::Interleaved)
        };
        check(&logits(&[20, VOCAB], dtype)?, packed, false, &gpu)?;

        let with_extras = |device: &Device| -> Result<Targets> {
            let transform = Transform { scale: 0.8, softcap: Some(3.0), valid_vocab: Some(VOCAB - 3) };
            Ok(packed(device)?.with_transform(transform).with_ld_alpha(0.3))
        };
        let with_all = |device: &Device| Ok(with_extras(device)?.with_token_metrics(MetricsLevel::All));
        check(&logits(&[20, VOCAB], dtype)?, with_all, true, &gpu)?;
        let with_entropy =
            |device: &Device| Ok(with_extras(device)?.with_token_metrics(MetricsLevel::Entropy));
        check(&logits(&[20, VOCAB], dtype)?, with_entropy, true, &gpu)?;
    }
    Ok(())
}

/// What the head gives on `device`, and the gradients of hidden states, weight and bias, or of hidden states alone.
fn head_pass(
    values: &[Tensor; 3],
    targets: &Targets,
    frozen: bool,
    device: &Device,
) -> Result<Vec<(&'static str, Tensor)>> {
    let [hidden, weight, bias] = values;
    let var = |values: &Tensor| Var::from_tensor(&values.to_device(device)?);
    let (hidden, weight, bias) = (var(hidden)?, var(weight)?, var(bias)?);
    let of_weight = |var: &Var| if frozen { var.detach() } else { var.as_tensor().clone() };
    let (w, b) = (of_weight(&weight), of_weight(&bias));
    let head = LmHead::new(&hidden, &w).with_bias(&b);
    let ref_logps = (linear_sequence_logps(&head, targets)?.detach() * 0.9)?;
    let output = linear_dpo_loss(
        &head,
        targets,
        &PairInputs::reference(&ref_logps),
        &PairLoss::sigmoid(0.1).unwrap(),
    )?;
    let mut results = vec![("loss", output.loss.clone()), ("logps", output.logps.clone())];
    // By the stored gradients of the loss, and by logits that are made again.
    let sums = [("of the loss", (&output.loss * 3.0)?), ("of logps", output.logps.sum_all()?)];
    for (what, sum) in sums {
        let mut gradients = sum.backward()?;
        results.push((what, gradients.remove(&hidden).expect("a gradient")));
        for var in [&weight, &bias] {
            let gradient = gradients.remove(var);
            assert_eq!(gradient.is_none(), frozen);
            results.extend(gradient.map(|gradient| (what, gradient)));
        }
    }
    Ok(results)
}

#[test]
fn heads_agree() -> Result<()> {
    const HIDDEN: usize = 24;
    let Some(gpu) = gpu() else { return Ok(()) };
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 5e-3), (DType::BF16, 3e-2)] {
        let values = [
            logits(&[4, 6, HIDDEN], dtype)?,
            (logits(&[VOCAB, HIDDEN], dtype)? * 0.1)?,
            logits(&[VOCAB], dtype)?,
        ];
        let targets = |device: &Device| {
            Targets::padded(&Tensor::from_vec(labels(24), (4, 6), device)?, LabelAlignment::NextToken)
        };
        for frozen in [false, true] {
            let on_cpu = head_pass(&values, &targets(&Device::Cpu)?, frozen, &Device::Cpu)?;
            // Labels that are on the GPU are fetched; those on the CPU need not be.
            for labels_on in [&gpu, &Device::Cpu] {
                let on_gpu = head_pass(&values, &targets(labels_on)?, frozen, &gpu)?;
                for ((name, gpu), (_, cpu)) in on_gpu.iter().zip(&on_cpu) {
                    assert_close(name, gpu, cpu, tolerance)?;
                }
            }
        }
    }
    Ok(())
}

/// Puts one element in the place of whatever a tensor had.
struct Exchange;

impl InplaceOp1 for Exchange {
    fn name(&self) -> &'static str {
        "exchange"
    }

    fn cpu_fwd(&self, _storage: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        unreachable!("made for tensors on a GPU")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _layout: &Layout) -> Result<()> {
        let device = storage.device.clone();
        *storage = CudaStorage::wrap_cuda_slice(device.alloc_zeros::<f32>(1)?, device);
        Ok(())
    }
}

#[test]
fn backward_through_a_constant_says_so() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let targets = Targets::padded(&Tensor::from_vec(labels(24), (4, 6), &gpu)?, LabelAlignment::NextToken)?;
    let logits = Var::from_tensor(&logits(&[4, 6, VOCAB], DType::F32)?.to_device(&gpu)?)?;
    let loss = PairLoss::sigmoid(0.1).unwrap().without_reference();
    let output = dpo_loss(&logits, &targets, &PairInputs::default(), &loss)?;
    let error = (&output.loss + output.margins.mean_all()?)?.backward().expect_err("an error").to_string();
    assert!(error.starts_with("margins: expected detach() before backward()"), "{error}");
    (&output.loss + output.margins.detach().mean_all()?)?.backward()?;
    Ok(())
}

#[test]
fn backward_does_not_read_what_was_freed() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let labels = Tensor::from_vec(labels(24), (4, 6), &gpu)?;
    let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
    let logits = Var::from_tensor(&logits(&[4, 6, VOCAB], DType::F32)?.to_device(&gpu)?)?;
    let loss = PairLoss::sigmoid(0.1).unwrap().without_reference();
    let output = dpo_loss(&logits, &targets, &PairInputs::default(), &loss)?;
    output.coef.inplace_op1(&Exchange)?;
    let error = output.loss.backward().expect_err("an error").to_string();
    assert!(error.contains("expected a storage of at least 4 elements, found 1"), "{error}");
    Ok(())
}
