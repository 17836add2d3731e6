//! The functions behind the language model's head, on a GPU.

use std::ffi::c_void;

#[cfg(feature = "cuda")]
use dpo_kernels::cuda::{Kernels, Products};

#[cfg(feature = "cuda")]
use super::lm_head_plans::{self, Pass};
#[cfg(feature = "cuda")]
use super::loaded;
#[cfg(feature = "cuda")]
use crate::failure::Result;
use crate::failure::guard;
use crate::header::*;
#[cfg(feature = "cuda")]
use crate::pointers::pointer;

exported! {
    unsafe fn dpo_cuda_lm_head_workspace_size(
        workspace: *const dpo_cuda_lm_head_workspace,
        bytes: *mut usize,
    ) {
        let needed = lm_head_plans::workspace_bytes(workspace)?;
        pointer("bytes", bytes)?.write(needed);
        Ok(())
    }

    unsafe fn dpo_cuda_lm_head_plan(
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        loss: *const dpo_loss,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        plan: *mut dpo_lm_head_plan,
    ) {
        let made = lm_head_plans::plan(batch, head, loss, gradients, workspace)?;
        pointer("plan", plan)?.write(made);
        Ok(())
    }

    unsafe fn dpo_cuda_lm_head_logps(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        out: *const dpo_logps,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let pass = lm_head_plans::logps(kernels.device(), batch, head, out, workspace)?;
        run(kernels, products, &pass, stream)
    }

    unsafe fn dpo_cuda_lm_head_forward(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        ref_logps: *const f32,
        loss: *const dpo_loss,
        out: *const dpo_logps,
        pair_outputs: *const dpo_pair_outputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let device = kernels.device();
        let pass = lm_head_plans::forward(
            device, batch, head, ref_logps, loss, out, pair_outputs, gradients, workspace,
        )?;
        run(kernels, products, &pass, stream)
    }

    unsafe fn dpo_cuda_lm_head_backward(
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        batch: *const dpo_batch,
        head: *const dpo_lm_head,
        inputs: *const dpo_lm_head_backward_inputs,
        gradients: *const dpo_lm_head_gradients,
        workspace: *const dpo_cuda_lm_head_workspace,
        stream: *mut c_void,
    ) {
        let kernels = loaded(kernels)?;
        let pass = lm_head_plans::backward(kernels.device(), batch, head, inputs, gradients, workspace)?;
        run(kernels, products, &pass, stream)
    }
}

/// Queues the copy of a pass's rows, and what is done with them.
///
/// # Safety
///
/// What the header says of memory, of the handles, and of the stream and its context.
#[cfg(feature = "cuda")]
unsafe fn run(
    kernels: &Kernels,
    products: *const dpo_cuda_products,
    pass: &Pass,
    stream: *mut c_void,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let products = pointer("products", products.cast::<Products>())?.as_ref();
        kernels.check_products(products)?;
        kernels.copy_entries(pass.rows.entries(), pass.entries, stream.cast())?;
        Ok(kernels.run_with(&pass.plan, products, stream.cast())?)
    }
}
