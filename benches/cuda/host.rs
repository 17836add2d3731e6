//! What a launch costs the host: the plan, and all that a pass does until the launch is queued.

use std::hint::black_box;
use std::time::Instant;

use dpo_kernels::cuda::plan::{
    self, Device, DeviceArray, DevicePairInputs, Inputs, LogpsBuffers, MAX_CLUSTER, PairLossArguments,
    PairOutputBuffers,
};
use dpo_kernels::cuda::{DpoPass, PairSlices};
use dpo_kernels::{Batch, DType, LabelAlignment, LabelType, PairLoss};
use half::bf16;

use crate::Result;
use crate::common::Shape;
use crate::passes::Gpu;

/// Small, so that the GPU is not what the host waits for.
const SHAPE: Shape = Shape { rows: 128, vocab: 1000 };

/// Calls between two looks at the clock: fewer than the launch queue has room for.
const CALLS: usize = 200;
const SAMPLES: usize = 25;

/// An H100, by its data sheet.
const H100: Device = Device {
    capability: (9, 0),
    multiprocessors: 132,
    shared_bytes_per_block: 227 << 10,
    l2_bytes: 50 << 20,
    cluster_blocks: MAX_CLUSTER,
};

/// Microseconds that the host takes.
pub struct HostTime {
    pub what: &'static str,
    pub micros: f64,
}

/// Times whole launches, and how much of a forward's is its plan.
pub fn launches(gpu: &Gpu) -> Result<Vec<HostTime>> {
    let stream = &gpu.stream;
    let mut pass = DpoPass::new(&gpu.kernels, stream, &SHAPE.batch())?;
    let loss = PairLoss::sigmoid(0.1)?.without_reference();
    let logits = stream.alloc_zeros::<bf16>(SHAPE.rows * SHAPE.vocab)?;
    let mut out = stream.alloc_zeros::<bf16>(SHAPE.rows * SHAPE.vocab)?;
    let labels = stream.alloc_zeros::<i64>(SHAPE.rows)?;
    let wait = || Ok(stream.synchronize()?);
    let forward = micros(|| Ok(pass.forward(&logits, &labels, &PairSlices::NONE, &loss)?), wait)?;
    let backward = micros(|| Ok(pass.backward(&logits, &labels, None, 1.0, &mut out)?), wait)?;
    let factored = micros(|| Ok(pass.factored(&logits, &labels, &PairSlices::NONE, &loss, &mut out)?), wait)?;
    Ok(vec![
        HostTime { what: "forward", micros: forward },
        HostTime { what: "backward", micros: backward },
        HostTime { what: "factored", micros: factored },
        HostTime { what: "plan of a forward alone", micros: plan_alone(gpu.kernels.device())? },
    ])
}

/// What can be said of the host where there is nothing to launch on.
pub fn without_a_device() -> Result<String> {
    Ok(format!("host time of the plan of a forward, for an H100: {:.2} us", plan_alone(&H100)?))
}

/// A plan is a pure function of addresses, at which nothing need be.
fn plan_alone(device: &Device) -> Result<f64> {
    let mut place = 0;
    let mut address = || {
        place += 1 << 30;
        place
    };
    let batch = Batch::<DeviceArray>::padded(SHAPE.rows / 32, 32, SHAPE.vocab, LabelAlignment::Aligned);
    let logps = LogpsBuffers {
        logps: Some(address()),
        logsumexp: Some(address()),
        logsumexp_residual: Some(address()),
        status: Some(address()),
        ..LogpsBuffers::default()
    };
    let pairs = PairOutputBuffers {
        pair_losses: Some(address()),
        chosen_rewards: Some(address()),
        rejected_rewards: Some(address()),
        margins: Some(address()),
        coef: Some(address()),
        metrics: Some(address()),
    };
    let inputs = Inputs {
        dtype: DType::BF16,
        logits: address(),
        label_type: LabelType::I64,
        labels: address(),
        window: None,
    };
    let loss = PairLoss::sigmoid(0.1)?;
    let ref_logps = DeviceArray { address: address(), len: batch.extent().sequences };
    let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::reference(ref_logps), out: &pairs };
    let workspace = address();
    let plan = || {
        let plan = plan::forward(device, black_box(&batch), &inputs, &logps, Some(&loss), workspace)?;
        let _ = black_box(plan);
        Ok(())
    };
    micros(plan, || Ok(()))
}

/// Host time of a call; `wait` empties the queue between samples.
fn micros(mut call: impl FnMut() -> Result<()>, wait: impl Fn() -> Result<()>) -> Result<f64> {
    call()?;
    let mut samples = (0..SAMPLES)
        .map(|_| {
            wait()?;
            let start = Instant::now();
            (0..CALLS).try_for_each(|_| call())?;
            Ok(1e6 * start.elapsed().as_secs_f64() / CALLS as f64)
        })
        .collect::<Result<Vec<f64>>>()?;
    wait()?;
    samples.sort_by(f64::total_cmp);
    Ok(samples[SAMPLES / 2])
}
