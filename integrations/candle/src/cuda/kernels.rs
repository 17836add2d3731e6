//! The kernels of each of candle's devices, and how a plan is run there.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::cuda_backend::cudarc::driver::sys::CUstream;
use candle_core::{CudaDevice, Error, Result};
use dpo_kernels::cuda::plan::{Device, Plan};
use dpo_kernels::cuda::{Kernels, Products};

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
    // SAFETY: the context is made current and the stream belongs to it; the rest is the caller's promise.
    on_stream(device, |stream| unsafe { kernels.run(&plan, stream) })
}

/// The same for a plan with products.
///
/// # Safety
///
/// That of [`run`].
pub(super) unsafe fn run_with_products(
    device: &CudaDevice,
    plan: impl FnOnce(&Device) -> dpo_kernels::Result<Plan>,
) -> Result<()> {
    let (kernels, products) = (kernels(device)?, products(device)?);
    let plan = plan(kernels.device())?;
    // SAFETY: as in `run`, and the products are of the same context.
    on_stream(device, |stream| unsafe { kernels.run_with(&plan, &products, stream) })
}

/// Calls `queue` with the stream of `device`, while its context is current.
fn on_stream(device: &CudaDevice, queue: impl FnOnce(CUstream) -> dpo_kernels::Result<()>) -> Result<()> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    Ok(queue(stream.cu_stream())?)
}

/// The kernels in the context of `device`.
fn kernels(device: &CudaDevice) -> Result<Arc<Kernels>> {
    static LOADED: Loaded<Kernels> = Loaded::new(Mutex::default);
    of_context(&LOADED, device, Kernels::new)
}

/// What multiplies matrices there.
fn products(device: &CudaDevice) -> Result<Arc<Products>> {
    static LOADED: Loaded<Products> = Loaded::new(Mutex::default);
    of_context(&LOADED, device, Products::new)
}

/// One of a kind for each context.
type Loaded<T> = LazyLock<Mutex<HashMap<usize, Arc<T>>>>;

/// What is `loaded` of the context of `device`, once, and kept.
fn of_context<T>(
    loaded: &Loaded<T>,
    device: &CudaDevice,
    load: impl FnOnce(&Arc<CudaContext>) -> dpo_kernels::Result<T>,
) -> Result<Arc<T>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = loaded.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // What is loaded keeps its context alive, so the handle stays unique.
    let key = context.cu_ctx() as usize;
    if let Some(found) = loaded.get(&key) {
        return Ok(found.clone());
    }
    let made = Arc::new(load(context)?);
    loaded.insert(key, made.clone());
    Ok(made)
}
