//! The GPU half of the header: plans, run on the caller's stream. Without the feature `cuda` the same functions are
//! there, and say so.

#[cfg(feature = "cuda")]
pub(crate) mod lm_head_plans;
#[cfg(feature = "cuda")]
pub(crate) mod plans;

use std::ffi::c_void;

#[cfg(feature = "cuda")]
use dpo_kernels::cuda::{Kernels, Products};

use crate::failure::guard;
use crate::header::*;
#[cfg(feature = "cuda")]
use crate::pointers::{pointer, read};

/// Exported functions whose bodies need the feature `cuda`.
macro_rules! exported {
    ($(
        $(#[$attribute:meta])*
        unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block
    )*) => {$(
        /// See the header.
        ///
        /// # Safety
        ///
        /// What the header says of memory, of the handle, and of the stream and its context.
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> dpo_result {
            // SAFETY: the caller's promise.
            #[cfg(feature = "cuda")]
            return guard(|| unsafe { $body });
            #[cfg(not(feature = "cuda"))]
            {
                let _ = ($($argument,)*);
                guard(|| Err(crate::failure::Failure::unsupported()))
            }
        }
    )*};
}

exported! {
    unsafe fn dpo_cuda_load(kernels: *mut *mut dpo_cuda_kernels) {
        let kernels = pointer("kernels", kernels)?;
        kernels.write(handle_of(Kernels::load_current()?));
        Ok(())
    }

    unsafe fn dpo_cuda_products_create(products: *mut *mut dpo_cuda_products) {
        let products = pointer("products", products)?;
        products.write(handle_of(Products::load_current()?));
        Ok(())
    }

    unsafe fn dpo_cuda_workspace_size(workspace: *const dpo_workspace, bytes: *mut usize) {
        let capacity = plans::capacity(read("workspace", workspace)?, 0);
        let bytes = pointer("bytes", bytes)?;
        bytes.write(capacity.workspace_bytes()?);
        Ok(())
    }

    unsafe fn dpo_cuda_logps(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        out: *const dpo_logps,
        workspace: *const dpo_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let plan = plans::logps(kernels.device(), batch, inputs, out, workspace)?;
        Ok(kernels.run(&plan, stream.cast())?)
    }

    unsafe fn dpo_cuda_pair_loss(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        logps: *const f32,
        ref_logps: *const f32,
        scored: *const u32,
        loss: *const dpo_loss,
        out: *const dpo_pair_outputs,
        status: *mut dpo_status,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let plan = plans::pair_loss(batch, logps, ref_logps, scored, loss, out, status)?;
        Ok(kernels.run(&plan, stream.cast())?)
    }

    unsafe fn dpo_cuda_forward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        workspace: *const dpo_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let device = kernels.device();
        let plan = plans::forward(device, batch, inputs, ref_logps, loss, out, pair_outputs, workspace)?;
        Ok(kernels.run(&plan, stream.cast())?)
    }

    unsafe fn dpo_cuda_factored(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradient: *mut c_void,
        workspace: *const dpo_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let device = kernels.device();
        let plan =
            plans::factored(device, batch, inputs, ref_logps, loss, out, pair_outputs, gradient, workspace)?;
        Ok(kernels.run(&plan, stream.cast())?)
    }

    unsafe fn dpo_cuda_backward(
        kernels: *const dpo_cuda_kernels,
        batch: *const dpo_batch,
        inputs: *const dpo_inputs,
        gradient: *const dpo_gradient,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let plan = plans::backward(kernels.device(), batch, inputs, gradient)?;
        Ok(kernels.run(&plan, stream.cast())?)
    }
}

/// Handles that are given back, and what is behind them.
macro_rules! freed {
    ($($name:ident($handle:ident: *mut $opaque:ty) of $type:ident;)*) => {$(
        /// See the header.
        ///
        /// # Safety
        ///
        /// The handle is null or was made for C, is not used again, and its context exists.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($handle: *mut $opaque) {
            guard(|| {
                #[cfg(feature = "cuda")]
                if !$handle.is_null() {
                    // SAFETY: the caller's promise: this is the box of `handle_of`, and the last to use it.
                    drop(unsafe { Box::from_raw($handle.cast::<$type>()) });
                }
                #[cfg(not(feature = "cuda"))]
                let _ = $handle; // there can be none
                Ok(())
            });
        }
    )*};
}

freed! {
    dpo_cuda_free(kernels: *mut dpo_cuda_kernels) of Kernels;
    dpo_cuda_products_free(products: *mut dpo_cuda_products) of Products;
}

/// What C has of a value until it is freed.
#[cfg(feature = "cuda")]
fn handle_of<T, H>(value: T) -> *mut H {
    Box::into_raw(Box::new(value)).cast()
}

/// # Safety
///
/// `kernels` is null or came from [`dpo_cuda_load`], and is not freed during `'a`.
#[cfg(feature = "cuda")]
unsafe fn loaded<'a>(kernels: *const dpo_cuda_kernels) -> dpo_kernels::Result<&'a Kernels> {
    // SAFETY: the caller's promise.
    Ok(unsafe { pointer("kernels", kernels.cast::<Kernels>())?.as_ref() })
}

pub(crate) mod lm_head;
