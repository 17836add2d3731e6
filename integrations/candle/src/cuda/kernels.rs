//! The kernels of each of candle's devices, and how a plan is run there.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::{CudaDevice, Error, Result};
use dpo_kernels::cuda::Kernels;
use dpo_kernels::cuda::plan::{Device, Plan};

/// Queues what `plan` makes for the device of the kernels, on the stream of `device`.
///
/// # Safety
///
/// That of [`Kernels::run`], for memory of `device`.
pub(super) unsafe fn run(
    device: &CudaDevice,
    plan: impl FnOnce(&Device) -> dpo_kernels::Result<Plan>,
) -> Result<()> {
    let kernels = kernels(device)?;
    let plan = plan(kernels.device())?;
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    // SAFETY: the context was made current above and the stream belongs to it; the rest is the caller's
    // promise.
    Ok(unsafe { kernels.run(&plan, stream.cu_stream()) }?)
}

/// The kernels in the context of `device`, loaded once and kept.
fn kernels(device: &CudaDevice) -> Result<Arc<Kernels>> {
    static LOADED: LazyLock<Mutex<HashMap<usize, Arc<Kernels>>>> = LazyLock::new(Mutex::default);
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The kernels keep their context alive, so its handle stays unique.
    let key = context.cu_ctx() as usize;
    if let Some(kernels) = loaded.get(&key) {
        return Ok(kernels.clone());
    }
    let kernels = Arc::new(Kernels::new(context)?);
    loaded.insert(key, kernels.clone());
    Ok(kernels)
}
