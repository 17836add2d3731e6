//! The lowest public layer: kernels loaded into a context, run from plans on raw stream handles.

use std::error::Error as _;
use std::ffi::CString;
use std::mem;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice_attribute, CUfunction, CUfunction_attribute, CUlaunchAttribute,
    CUlaunchAttributeID, CUlaunchConfig, CUmodule, CUresult, CUstream, CUstreamCaptureStatus,
};
use cudarc::driver::{CudaContext, DriverError, result};

use super::images::{IMAGES, Image, select};
use super::kernel::{Kernel, UNITS};
use super::plan::{Arguments, DeviceAddress, Launch, Plan, Step};
use super::products::Products;
use super::properties::{Device, MAX_CLUSTER};
use crate::error::{Error, Result};

/// Number of CUDA devices; 0 with a driver that sees none.
///
/// # Errors
///
/// [`Error::NoDriver`] where the driver library cannot be loaded, [`Error::Driver`] where it does not start.
pub fn device_count() -> Result<usize> {
    require_driver()?;
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        other => driver("cuInit", other)?,
    }
    Ok(driver("cuDeviceGetCount", result::device::get_count())?.max(0) as usize)
}

/// The primary context of a device, current on this thread.
///
/// # Errors
///
/// Those of [`device_count`], and [`Error::NoDevice`].
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    let available = device_count()?;
    if ordinal >= available {
        return Err(Error::NoDevice { ordinal, available });
    }
    driver("cuDevicePrimaryCtxRetain", CudaContext::new(ordinal))
}

/// Names of the driver library, as the driver's installers and their packages for development have it.
const DRIVER_LIBRARIES: [&str; 3] = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"];

/// cudarc panics where it cannot load the library, so this comes before every first use.
pub(super) fn require_driver() -> Result<()> {
    let mut reason = String::new();
    for name in DRIVER_LIBRARIES {
        // SAFETY: the driver library is made to be loaded by name.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => {
                // Kept open: cudarc loads it again by the same names, and it is never unloaded in practice.
                mem::forget(library);
                return Ok(());
            }
            Err(error) => reason = loader_reason(&error),
        }
    }
    Err(Error::NoDriver { searched: &DRIVER_LIBRARIES, reason })
}

pub(super) fn no_context() -> Error {
    Error::Driver { call: "cuCtxGetCurrent", message: "no context is current on this thread".into() }
}

/// What the system's loader said, where it said something.
pub(super) fn loader_reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |said| said.to_string())
}

pub(super) fn driver<T>(call: &'static str, result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| Error::Driver { call, message: format!("{error:?}") })
}

/// The kernels, loaded into one CUDA context.
///
/// Loading picks, for each source, the embedded image that fits the device best. A value may be shared between
/// threads; it is to be dropped before its context is destroyed.
///
/// A [`DpoPass`](super::DpoPass) launches them on buffers of its own; a [`plan`](super::plan) is for those of
/// others:
///
/// ```no_run
/// use dpo_kernels::cuda::plan::{self, Inputs, LogpsBuffers};
/// use dpo_kernels::cuda::{CUstream, Kernels, context};
/// use dpo_kernels::Error;
///
/// /// The log-probs of sequences, on a stream of whoever made the context.
/// ///
/// /// # Safety
/// ///
/// /// That of [`Kernels::run`].
/// unsafe fn logps(
///     kernels: &Kernels,
///     batch: &plan::DeviceBatch,
///     inputs: &Inputs,
///     out: &LogpsBuffers,
///     workspace: plan::DeviceAddress,
///     stream: CUstream,
/// ) -> Result<(), Error> {
///     let plan = plan::forward(kernels.device(), batch, inputs, out, None, workspace)?;
///     // SAFETY: the caller's promise.
///     unsafe { kernels.run(&plan, stream) }
/// }
///
/// // Into cudarc's context, or with `load_current` into the one that a framework has made current.
/// let context = context(0)?;
/// let kernels = Kernels::new(&context)?;
/// println!("{:?}", kernels.device());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Kernels {
    context: CUcontext,
    device: Device,
    /// In the order of [`UNITS`].
    modules: Vec<CUmodule>,
    /// In the order of [`Kernel::ALL`].
    functions: Vec<CUfunction>,
    /// Keeps a context that cudarc manages alive as long as the kernels in it.
    owner: Option<Arc<CudaContext>>,
}

// SAFETY: the driver's handles may be used from any thread; nothing here changes after loading.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Loads into cudarc's context, which it makes current on this thread.
    ///
    /// # Errors
    ///
    /// Those of [`Kernels::load_current`].
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        Kernels::from_images(context, IMAGES)
    }

    /// As [`Kernels::new`], from some of the embedded images only: the PTX, say, to see what the driver makes of it.
    ///
    /// # Errors
    ///
    /// Those of [`Kernels::load_current`].
    pub fn from_images(context: &Arc<CudaContext>, images: &[Image]) -> Result<Self> {
        driver("cuCtxSetCurrent", context.bind_to_thread())?;
        let mut kernels = Kernels::load(images)?;
        kernels.owner = Some(context.clone());
        Ok(kernels)
    }

    /// Loads into the context that is current on this thread, whoever made it.
    ///
    /// # Errors
    ///
    /// [`Error::NoDriver`], [`Error::NoImage`], [`Error::DamagedImage`], and [`Error::Driver`], also where no context is current.
    pub fn load_current() -> Result<Self> {
        require_driver()?;
        Kernels::load(IMAGES)
    }

    fn load(images: &[Image]) -> Result<Self> {
        let context = driver("cuCtxGetCurrent", result::ctx::get_current())?.ok_or_else(no_context)?;
        let device = current_device()?;
        let mut kernels = Kernels { context, device, modules: vec![], functions: vec![], owner: None };
        for unit in UNITS {
            let image = select(images, unit, device.capability)?;
            if image.capability < FIRST_WITH_CLUSTERS {
                kernels.device.cluster_blocks = 1;
            }
            let unpacked = image.unpack()?;
            // SAFETY: the image is complete, aligned, and NUL-terminated where it is PTX.
            let module = unsafe { result::module::load_data(unpacked.as_ptr().cast()) };
            kernels.modules.push(driver("cuModuleLoadData", module)?);
        }
        for kernel in Kernel::ALL {
            let unit = UNITS.iter().position(|&unit| unit == kernel.unit()).expect("it is one of them");
            let symbol = CString::new(kernel.to_string()).expect("kernel names have no NUL");
            // SAFETY: the module was loaded above.
            let function = unsafe { result::module::get_function(kernels.modules[unit], symbol) };
            let function = driver("cuModuleGetFunction", function)?;
            allow_shared_memory(function, device.shared_bytes_per_block)?;
            kernels.functions.push(function);
        }
        Ok(kernels)
    }

    /// What plans for these kernels take.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs the steps of a plan without products, one after the other on the same stream, as [`launch`](Self::launch) does.
    ///
    /// # Safety
    ///
    /// That of [`launch`](Self::launch), for every step of the plan.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] that names `products` where the plan has some, before any step; [`Error::Driver`] if the driver refuses a
    /// step, and those before it are queued then.
    pub unsafe fn run(&self, plan: &Plan, stream: CUstream) -> Result<()> {
        if plan.products().next().is_some() {
            return Err(Error::Missing { argument: "products", because: "the plan multiplies matrices" });
        }
        // SAFETY: the caller's promise.
        unsafe { self.run_steps(plan, None, stream) }
    }

    /// Runs the steps of a plan, as [`run`](Self::run) does, with products by cuBLASLt. What that needs for shapes that it has not met
    /// yet is made on the way, unless [`Products::prepare`] has made it.
    ///
    /// # Safety
    ///
    /// That of [`launch`](Self::launch), for every step of the plan.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for products of another context than the kernels', before any step; [`Error::Driver`] or
    /// [`Error::Cublas`] if a step is refused, and those before it are queued then.
    pub unsafe fn run_with(&self, plan: &Plan, products: &Products, stream: CUstream) -> Result<()> {
        self.check_products(products)?;
        // SAFETY: the caller's promise.
        unsafe { self.run_steps(plan, Some(products), stream) }
    }

    /// # Safety
    ///
    /// That of [`run_with`](Self::run_with). There are products where the plan has some.
    unsafe fn run_steps(&self, plan: &Plan, products: Option<&Products>, stream: CUstream) -> Result<()> {
        for step in plan.steps() {
            match step {
                // SAFETY: the caller's promise.
                Step::Launch(launch) => unsafe { self.launch(launch, stream) }?,
                // SAFETY: the caller's promise.
                Step::Product(product) => products.map_or(Ok(()), |by| unsafe { by.run(product, stream) })?,
                Step::Zero { address, bytes } => {
                    // SAFETY: the caller's promise.
                    let zeroed = unsafe { sys::cuMemsetD8Async(*address, 0, *bytes, stream) };
                    driver("cuMemsetD8Async", zeroed.result())?;
                }
            }
        }
        Ok(())
    }

    /// Copies [entries](super::plan::LmHeadRows::entries) to the device, after what the stream has to do. They may change as soon
    /// as this returns, unless their memory is pinned.
    ///
    /// # Safety
    ///
    /// The context that the kernels were loaded into is current on this thread, and the stream belongs to it. `to` is the address
    /// of a buffer of the entries' size, which lives until the copy has run.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `stream` where it is being captured; [`Error::Driver`].
    pub unsafe fn copy_entries(&self, entries: &[i32], to: DeviceAddress, stream: CUstream) -> Result<()> {
        // SAFETY: the caller's promise.
        check_not_captured(driver("cuStreamIsCapturing", unsafe { result::stream::is_capturing(stream) })?)?;
        // SAFETY: the caller's promise. The driver has copied the entries elsewhere when its call returns, since their memory is
        // not pinned.
        driver("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(to, entries, stream) })
    }

    /// The context that the kernels were loaded into.
    pub(super) fn context(&self) -> CUcontext {
        self.context
    }

    /// Refuses products that cannot run with these kernels, as [`run_with`](Self::run_with) does.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for products of another context.
    pub fn check_products(&self, products: &Products) -> Result<()> {
        if products.context() == self.context {
            return Ok(());
        }
        let expected = "those of the context that the kernels were loaded into";
        Err(Error::value("products", expected, "those of another"))
    }

    /// Runs one launch, asynchronously, on the caller's stream and thread. Allocates, copies and waits for nothing,
    /// so it can be captured into a graph.
    ///
    /// # Safety
    ///
    /// The context that the kernels were loaded into is current on this thread, and the stream belongs to it (null is
    /// its default stream). Every address in the launch points to a live buffer of the documented size until the
    /// launch has run; buffers that it writes overlap no other, save a gradient that is the logits; and the workspace was
    /// zeroed once and is used by one launch at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`] if the driver refuses the launch.
    pub unsafe fn launch(&self, launch: &Launch, stream: CUstream) -> Result<()> {
        let argument = match &launch.arguments {
            Arguments::Forward(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::PairLoss(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::Backward(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::Factored(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::RowCoef(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::MoveRows(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::ClearRows(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::BiasGradient(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::TokenResults(params) => ptr::from_ref(params).cast_mut().cast(),
        };
        // SAFETY: an attribute is plain numbers, for which zeros are a value.
        let mut cluster: CUlaunchAttribute = unsafe { mem::zeroed() };
        cluster.id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        cluster.value.clusterDim.x = launch.cluster;
        cluster.value.clusterDim.y = 1;
        cluster.value.clusterDim.z = 1;
        let config = CUlaunchConfig {
            gridDimX: launch.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: stream,
            attrs: &mut cluster,
            numAttrs: u32::from(launch.cluster > 1),
        };
        let (function, mut arguments) = (self.functions[launch.kernel.index()], [argument]);
        // SAFETY: the kernel takes the one struct, which the driver copies; the rest is the caller's promise.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), ptr::null_mut()) };
        driver("cuLaunchKernelEx", launched.result())
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // Modules are unloaded in their own context, whichever is current here. A driver that is shutting down
        // refuses, and has unloaded them already.
        // SAFETY: the handles are this value's own.
        unsafe {
            if sys::cuCtxPushCurrent_v2(self.context) == CUresult::CUDA_SUCCESS {
                for &module in &self.modules {
                    let _ = result::module::unload(module);
                }
                let _ = sys::cuCtxPopCurrent_v2(&mut ptr::null_mut());
            }
        }
        drop(self.owner.take());
    }
}

/// Refuses a stream that is being captured where the indices of a batch are copied.
pub(super) fn check_not_captured(status: CUstreamCaptureStatus) -> Result<()> {
    if status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        return Ok(());
    }
    let expected = "one that is not captured while a batch is given: a graph would copy this batch again";
    Err(Error::value("stream", expected, "one that is"))
}

/// The first compute capability, as major · 10 + minor, whose images may use clusters.
const FIRST_WITH_CLUSTERS: u32 = 90;

/// The device of the current context, with what its hardware can do; the image that is loaded may know less of it.
fn current_device() -> Result<Device> {
    use CUdevice_attribute as Attribute;
    let mut ordinal = 0;
    // SAFETY: a valid place to write to.
    driver("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&mut ordinal) }.result())?;
    let attribute = |attribute| {
        // SAFETY: the device comes from the driver.
        let value = unsafe { result::device::get_attribute(ordinal, attribute) };
        Ok::<u32, Error>(driver("cuDeviceGetAttribute", value)?.max(0) as u32)
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let clusters = 10 * capability.0 + capability.1 >= FIRST_WITH_CLUSTERS;
    Ok(Device {
        capability,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        cluster_blocks: if clusters { MAX_CLUSTER } else { 1 },
    })
}

/// Lets launches of a kernel ask for all the shared memory there is: what its static variables leave of `most`.
fn allow_shared_memory(function: CUfunction, most: u32) -> Result<()> {
    use CUfunction_attribute::{
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC,
        CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
    };
    // SAFETY: the function was loaded into the current context.
    let fixed =
        driver("cuFuncGetAttribute", unsafe { result::function::get_function_attribute(function, STATIC) })?;
    let dynamic = most as i32 - fixed;
    // SAFETY: as above.
    let set = unsafe { result::function::set_function_attribute(function, DYNAMIC, dynamic) };
    driver("cuFuncSetAttribute", set)
}
