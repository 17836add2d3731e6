//! The lowest public layer: kernels loaded into a context, run from plans on raw stream handles.

use std::ffi::CString;
use std::mem;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUcontext, CUfunction, CUmodule, CUresult, CUstream};
use cudarc::driver::{CudaContext, DriverError, result};

use super::images::{IMAGES, Image, select};
use super::plan::{Arguments, KERNELS, Launch};
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
fn require_driver() -> Result<()> {
    let mut reason = String::new();
    for name in DRIVER_LIBRARIES {
        // SAFETY: the driver library is made to be loaded by name.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => {
                // Kept open: cudarc loads it again by the same names, and it is never unloaded in practice.
                mem::forget(library);
                return Ok(());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(Error::NoDriver { searched: &DRIVER_LIBRARIES, reason })
}

pub(super) fn driver<T>(call: &'static str, result: std::result::Result<T, DriverError>) -> Result<T> {
    result.map_err(|error| Error::Driver { call, message: format!("{error:?}") })
}

/// The kernels, loaded into one CUDA context.
///
/// Loading picks, for each source, the embedded image that fits the device best. A value may be shared between
/// threads; it is to be dropped before its context is destroyed.
#[derive(Debug)]
pub struct Kernels {
    context: CUcontext,
    modules: Vec<CUmodule>,
    /// In the order of [`KERNELS`].
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
    /// [`Error::NoDriver`], [`Error::NoImage`], and [`Error::Driver`], also where no context is current.
    pub fn load_current() -> Result<Self> {
        require_driver()?;
        Kernels::load(IMAGES)
    }

    fn load(images: &[Image]) -> Result<Self> {
        let context = driver("cuCtxGetCurrent", result::ctx::get_current())?.ok_or_else(|| {
            Error::Driver { call: "cuCtxGetCurrent", message: "no context is current on this thread".into() }
        })?;
        let capability = current_capability()?;
        let mut kernels = Kernels { context, modules: vec![], functions: vec![], owner: None };
        let mut loaded = "";
        for (unit, name) in KERNELS {
            if unit != loaded {
                let image = select(images, unit, capability)?;
                // SAFETY: the image is complete, aligned, and NUL-terminated where it is PTX.
                let module = unsafe { result::module::load_data(image.bytes.as_ptr().cast()) };
                kernels.modules.push(driver("cuModuleLoadData", module)?);
                loaded = unit;
            }
            let module = kernels.modules[kernels.modules.len() - 1];
            let symbol = CString::new(name).expect("kernel names have no NUL");
            // SAFETY: the module was loaded above.
            let function = unsafe { result::module::get_function(module, symbol) };
            kernels.functions.push(driver("cuModuleGetFunction", function)?);
        }
        Ok(kernels)
    }

    /// Runs one launch, asynchronously, on the caller's stream and thread. Allocates, copies and waits for nothing,
    /// so it can be captured into a graph.
    ///
    /// # Safety
    ///
    /// The context that the kernels were loaded into is current on this thread, and the stream belongs to it (null is
    /// its default stream). Every address in the launch points to a live buffer of the documented size until the
    /// launch has run; buffers that it writes overlap no other, save dlogits that is logits; and the workspace was
    /// zeroed once and is used by one launch at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`] if the driver refuses the launch.
    pub unsafe fn launch(&self, launch: &Launch, stream: CUstream) -> Result<()> {
        let index = KERNELS
            .iter()
            .position(|&(unit, kernel)| unit == launch.unit && kernel == launch.kernel)
            .ok_or_else(|| Error::value("launch", format!("one of {KERNELS:?}"), launch.kernel))?;
        let argument = match &launch.arguments {
            Arguments::Forward(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::PairLoss(params) => ptr::from_ref(params).cast_mut().cast(),
            Arguments::Backward(params) => ptr::from_ref(params).cast_mut().cast(),
        };
        let grid = (launch.grid, 1, 1);
        let block = (launch.block, 1, 1);
        // SAFETY: the kernel takes the one struct, which the driver copies; the rest is the caller's promise.
        let launched =
            unsafe { result::launch_kernel(self.functions[index], grid, block, 0, stream, &mut [argument]) };
        driver("cuLaunchKernel", launched)
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

/// (major, minor) of the device of the current context.
fn current_capability() -> Result<(u32, u32)> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let mut device = 0;
    // SAFETY: a valid place to write to; the device comes from the driver.
    unsafe {
        driver("cuCtxGetDevice", sys::cuCtxGetDevice(&mut device).result())?;
        let major = driver("cuDeviceGetAttribute", result::device::get_attribute(device, MAJOR))?;
        let minor = driver("cuDeviceGetAttribute", result::device::get_attribute(device, MINOR))?;
        Ok((major as u32, minor as u32))
    }
}
