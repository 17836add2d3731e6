//! The head, from hidden states: a whole pass beside its products alone, by the same library and of the same chunks, in the same
//! run.

use cudarc::driver::{CudaSlice, DevicePtr};
use dpo_kernels::cuda::Products;
use dpo_kernels::cuda::plan::{
    self, DeviceLmHead, DeviceLmHeadGradients, DevicePairInputs, LmHeadMemory, LmHeadRows, LmHeadWorkspace,
    LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan, Step,
};
use dpo_kernels::{DType, HostBatch, LabelAlignment, PairLoss};
use half::bf16;

use crate::Result;
use crate::passes::Gpu;

/// Four pairs of so many tokens an answer.
const SEQUENCES: usize = 8;
const TOKENS: usize = 1024;
const VOCAB: usize = 128_256;

/// What is measured of a head.
struct Setting {
    what: &'static str,
    hidden_size: usize,
    /// Bytes of a chunk's logits.
    chunk: usize,
    logits: DType,
    frozen: bool,
}

const SETTINGS: [Setting; 5] = [
    Setting { what: "trained", hidden_size: 4096, chunk: 1 << 30, logits: DType::BF16, frozen: false },
    Setting { what: "trained", hidden_size: 4096, chunk: 512 << 20, logits: DType::BF16, frozen: false },
    Setting { what: "trained", hidden_size: 4096, chunk: 1 << 30, logits: DType::F32, frozen: false },
    Setting { what: "frozen", hidden_size: 4096, chunk: 1 << 30, logits: DType::BF16, frozen: true },
    Setting { what: "trained", hidden_size: 1024, chunk: 1 << 30, logits: DType::BF16, frozen: false },
];

/// A pass, and its products alone.
pub struct HeadTime {
    pub name: String,
    pub micros: f64,
    pub products: f64,
}

/// Times every setting; none where there is no library for products.
pub fn measure(gpu: &Gpu) -> Result<Vec<HeadTime>> {
    match Products::new(gpu.stream.context()) {
        Ok(products) => SETTINGS.iter().map(|setting| time(gpu, &products, setting)).collect(),
        Err(error) => {
            println!("the head is not measured: {error}");
            Ok(vec![])
        }
    }
}

fn time(gpu: &Gpu, products: &Products, setting: &Setting) -> Result<HeadTime> {
    let Setting { what, hidden_size, chunk, logits: logits_dtype, frozen } = *setting;
    let batch = HostBatch::padded(SEQUENCES, TOKENS, VOCAB, LabelAlignment::Aligned);
    let count = batch.rows();
    let labels: Vec<i64> = (0..count).map(|row| (row * 7919 % VOCAB) as i64).collect();
    let rows = LmHeadRows::new(&batch, labels[..].into())?;
    let memory =
        LmHeadMemory { logits_dtype, ..LmHeadMemory::new(rows.capacity(), DType::BF16, hidden_size) };
    let chunk_rows = chunk / (VOCAB * logits_dtype.size());
    let memory = LmHeadMemory { budget_bytes: chunk_rows * memory.bytes_per_row(VOCAB), ..memory };

    let stream = &gpu.stream;
    let entries = stream.clone_htod(rows.entries())?;
    // Logits of a deviation of about 3.
    let hidden = noise(gpu, count * hidden_size, 1, 1.0)?;
    let weight = noise(gpu, VOCAB * hidden_size, 2, 3.0 / (hidden_size as f32).sqrt())?;
    let dhidden = stream.alloc_zeros::<bf16>(count * hidden_size)?;
    let dweight = stream.alloc_zeros::<f32>(if frozen { 1 } else { VOCAB * hidden_size })?;
    let workspace = stream.alloc_zeros::<u8>(memory.workspace_bytes()?)?;
    let of_rows = stream.alloc_zeros::<f32>(2 * count)?;
    // Results of sequences, pairs and the batch, each in a place of its own.
    let small = stream.alloc_zeros::<f32>(1024)?;
    let at = |slice: &CudaSlice<f32>, index: usize| address(gpu, slice) + 4 * index as u64;
    let out = LogpsBuffers {
        logps: Some(at(&small, 0)),
        logsumexp: Some(at(&of_rows, 0)),
        logsumexp_residual: Some(at(&of_rows, count)),
        status: Some(at(&small, 64)),
        ..LogpsBuffers::default()
    };
    let pairs = PairOutputBuffers {
        pair_losses: Some(at(&small, 128)),
        chosen_rewards: Some(at(&small, 192)),
        rejected_rewards: Some(at(&small, 256)),
        margins: Some(at(&small, 320)),
        coef: Some(at(&small, 384)),
        metrics: Some(at(&small, 448)),
    };
    let loss = PairLoss::sigmoid(0.1)?.without_reference();
    let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::NONE, out: &pairs };
    let head = DeviceLmHead {
        dtype: DType::BF16,
        hidden_size,
        hidden: address(gpu, &hidden),
        weight: address(gpu, &weight),
        bias: None,
    };
    let gradients = DeviceLmHeadGradients {
        hidden: Some(address(gpu, &dhidden)),
        weight: (!frozen).then(|| address(gpu, &dweight)),
        ..DeviceLmHeadGradients::default()
    };
    let (device, entries) = (gpu.kernels.device(), address(gpu, &entries));
    let workspace = LmHeadWorkspace { address: address(gpu, &workspace), memory };
    let whole =
        plan::lm_head(device, &rows, entries, VOCAB, &head, &out, Some(&loss), &gradients, &workspace)?;
    let alone = Plan::from(whole.products().map(|&product| Step::Product(product)).collect::<Vec<_>>());
    let micros = |plan: &Plan| {
        gpu.clock.microseconds(1, |_| {
            // SAFETY: the plan is of buffers above, of the sizes that it asks for, which live until the clock has waited for it.
            Ok(unsafe { gpu.kernels.run_with(plan, products, stream.cu_stream()) }?)
        })
    };
    let multiplied = whole.products().count();
    let name = format!(
        "{what}, hidden {hidden_size}, chunks of {} MiB of {} logits, {multiplied} products",
        chunk >> 20,
        logits_dtype.name()
    );
    Ok(HeadTime { name, micros: micros(&whole)?, products: micros(&alone)? })
}

fn address<T>(gpu: &Gpu, slice: &CudaSlice<T>) -> u64 {
    slice.device_ptr(&gpu.stream).0
}

/// Numbers of a deviation, over and over: of a length that no row is a part of, so that no two rows are the same.
fn noise(gpu: &Gpu, count: usize, seed: u64, deviation: f32) -> Result<CudaSlice<bf16>> {
    const TILE: usize = (1 << 20) + 7;
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Uniform from −√3 to √3, which has a deviation of 1.
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 3.0f32.sqrt()
    };
    let tile: Vec<bf16> = (0..TILE).map(|_| bf16::from_f32(deviation * next())).collect();
    let tile = gpu.stream.clone_htod(&tile)?;
    let mut all = gpu.stream.alloc_zeros::<bf16>(count)?;
    for start in (0..count).step_by(TILE) {
        let len = TILE.min(count - start);
        gpu.stream.memcpy_dtod(&tile.slice(..len), &mut all.slice_mut(start..start + len))?;
    }
    Ok(all)
}
