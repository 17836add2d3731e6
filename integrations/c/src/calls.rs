//! The functions of the header by stage and half, for tests that call any of them.

use std::ffi::c_void;
#[cfg(feature = "cuda")]
use std::ptr;

#[cfg(feature = "cuda")]
use dpo_kernels::cuda::plan::Device;

use crate::cpu::lm_head::{
    dpo_cpu_lm_head_backward, dpo_cpu_lm_head_forward, dpo_cpu_lm_head_logps, dpo_cpu_lm_head_plan,
};
use crate::cpu::{dpo_cpu_backward, dpo_cpu_factored, dpo_cpu_forward, dpo_cpu_logps, dpo_cpu_pair_loss};
use crate::cuda::lm_head::{
    dpo_cuda_lm_head_backward, dpo_cuda_lm_head_forward, dpo_cuda_lm_head_logps, dpo_cuda_lm_head_plan,
};
use crate::cuda::{
    dpo_cuda_backward, dpo_cuda_factored, dpo_cuda_forward, dpo_cuda_logps, dpo_cuda_pair_loss,
};
#[cfg(feature = "cuda")]
use crate::cuda::{lm_head_plans, plans};
#[cfg(feature = "cuda")]
use crate::failure::guard;
use crate::header::*;

/// A function of the header, on either half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    Logps,
    PairLoss,
    Forward,
    Factored,
    Backward,
    LmHead(LmHead),
}

/// A function behind the language model's head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LmHead {
    Plan,
    Logps,
    Forward,
    Backward,
}

impl Stage {
    /// Whether its function takes a loss.
    pub fn has_loss(self) -> bool {
        match self {
            Stage::PairLoss | Stage::Forward | Stage::Factored => true,
            Stage::LmHead(call) => matches!(call, LmHead::Plan | LmHead::Forward),
            Stage::Logps | Stage::Backward => false,
        }
    }

    /// Whether it takes hidden states where others take logits.
    pub fn is_behind_head(self) -> bool {
        matches!(self, Stage::LmHead(_))
    }
}

/// A half of the header.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Half {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
}

/// The GPU that plans are made for.
#[cfg(feature = "cuda")]
pub(crate) const DEVICE: Device = Device {
    capability: (9, 0),
    multiprocessors: 132,
    shared_bytes_per_block: 232_448,
    l2_bytes: 50 << 20,
    cluster_blocks: 8,
};

/// What the functions of the header are handed, of which each takes its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub batch: *const dpo_batch,
    pub inputs: *const dpo_inputs,
    pub logps: *const f32,
    pub ref_logps: *const f32,
    pub scored: *const u32,
    pub loss: *const dpo_loss,
    pub out: *const dpo_logps,
    pub pair_outputs: *const dpo_pair_outputs,
    pub gradient: *const dpo_gradient,
    /// The `gradient` of `factored`.
    pub factored: *mut c_void,
    pub workspace: *const dpo_workspace,
    /// Of `pair_loss`.
    pub status: *mut dpo_status,
    pub head: *const dpo_lm_head,
    pub backward_inputs: *const dpo_lm_head_backward_inputs,
    pub gradients: *const dpo_lm_head_gradients,
    pub head_workspace: *mut dpo_cpu_lm_head_workspace,
    pub cuda_head_workspace: *const dpo_cuda_lm_head_workspace,
    pub plan: *mut dpo_lm_head_plan,
}

impl Arguments {
    /// Calls the function of a stage; on a GPU, as far as the plan.
    ///
    /// # Safety
    ///
    /// The arguments of the stage are as the header asks, but for what is to be refused.
    pub unsafe fn call(&self, half: Half, stage: Stage) -> dpo_result {
        // SAFETY: the caller's promise.
        unsafe {
            match half {
                Half::Cpu => self.run_on_cpu(stage),
                #[cfg(feature = "cuda")]
                Half::Cuda => self.plan_for_gpu(stage),
            }
        }
    }

    /// # Safety
    ///
    /// That of [`call`](Self::call).
    unsafe fn run_on_cpu(&self, stage: Stage) -> dpo_result {
        let Arguments { batch, inputs, loss, out, pair_outputs, gradient, .. } = *self;
        let Arguments { logps, ref_logps, scored, factored, status, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            match stage {
                Stage::Logps => dpo_cpu_logps(batch, inputs, out),
                Stage::PairLoss => {
                    dpo_cpu_pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs, status)
                }
                Stage::Forward => dpo_cpu_forward(batch, inputs, ref_logps, loss, out, pair_outputs),
                Stage::Factored => {
                    dpo_cpu_factored(batch, inputs, ref_logps, loss, out, pair_outputs, factored)
                }
                Stage::Backward => dpo_cpu_backward(batch, inputs, gradient),
                Stage::LmHead(call) => self.run_behind_head(call),
            }
        }
    }

    /// # Safety
    ///
    /// That of [`call`](Self::call).
    unsafe fn run_behind_head(&self, call: LmHead) -> dpo_result {
        let Arguments { batch, head, ref_logps, loss, out, pair_outputs, .. } = *self;
        let Arguments { backward_inputs: inputs, gradients, head_workspace: workspace, plan, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            match call {
                LmHead::Plan => dpo_cpu_lm_head_plan(batch, head, loss, gradients, plan),
                LmHead::Logps => dpo_cpu_lm_head_logps(batch, head, out, workspace),
                LmHead::Forward => dpo_cpu_lm_head_forward(
                    batch,
                    head,
                    ref_logps,
                    loss,
                    out,
                    pair_outputs,
                    gradients,
                    workspace,
                ),
                LmHead::Backward => dpo_cpu_lm_head_backward(batch, head, inputs, gradients, workspace),
            }
        }
    }

    /// Calls the function of a stage that queues it on a GPU, or says what it would do there.
    ///
    /// # Safety
    ///
    /// That of [`call`](Self::call), and what the header says of `kernels`, `products` and `stream`.
    pub unsafe fn run_on_gpu(
        &self,
        stage: Stage,
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        stream: *mut c_void,
    ) -> dpo_result {
        let Arguments { batch, inputs, loss, out, pair_outputs: pairs, gradient, .. } = *self;
        let Arguments { logps, ref_logps, scored, factored, workspace, status, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            match stage {
                Stage::Logps => dpo_cuda_logps(kernels, batch, inputs, out, workspace, stream),
                Stage::PairLoss => {
                    dpo_cuda_pair_loss(kernels, batch, logps, ref_logps, scored, loss, pairs, status, stream)
                }
                Stage::Forward => {
                    dpo_cuda_forward(kernels, batch, inputs, ref_logps, loss, out, pairs, workspace, stream)
                }
                Stage::Factored => dpo_cuda_factored(
                    kernels, batch, inputs, ref_logps, loss, out, pairs, factored, workspace, stream,
                ),
                Stage::Backward => dpo_cuda_backward(kernels, batch, inputs, gradient, stream),
                Stage::LmHead(call) => self.run_behind_head_on_gpu(call, kernels, products, stream),
            }
        }
    }

    /// # Safety
    ///
    /// That of [`run_on_gpu`](Self::run_on_gpu).
    unsafe fn run_behind_head_on_gpu(
        &self,
        call: LmHead,
        kernels: *const dpo_cuda_kernels,
        products: *const dpo_cuda_products,
        stream: *mut c_void,
    ) -> dpo_result {
        let Arguments { batch, head, ref_logps, loss, out, pair_outputs: pairs, .. } = *self;
        let Arguments { backward_inputs: inputs, gradients, cuda_head_workspace: workspace, plan, .. } =
            *self;
        // SAFETY: the caller's promise.
        unsafe {
            match call {
                LmHead::Plan => dpo_cuda_lm_head_plan(batch, head, loss, gradients, workspace, plan),
                LmHead::Logps => {
                    dpo_cuda_lm_head_logps(kernels, products, batch, head, out, workspace, stream)
                }
                LmHead::Forward => dpo_cuda_lm_head_forward(
                    kernels, products, batch, head, ref_logps, loss, out, pairs, gradients, workspace, stream,
                ),
                LmHead::Backward => dpo_cuda_lm_head_backward(
                    kernels, products, batch, head, inputs, gradients, workspace, stream,
                ),
            }
        }
    }

    /// The pass of a function behind the head on a GPU.
    ///
    /// # Safety
    ///
    /// That of [`call`](Self::call).
    #[cfg(feature = "cuda")]
    pub unsafe fn pass_behind_head(&self, call: LmHead) -> dpo_kernels::Result<lm_head_plans::Pass> {
        let Arguments { batch, head, ref_logps, loss, out, pair_outputs: pairs, .. } = *self;
        let Arguments { backward_inputs: inputs, gradients, cuda_head_workspace: workspace, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            match call {
                LmHead::Plan => unreachable!("it says what the others do"),
                LmHead::Logps => lm_head_plans::logps(&DEVICE, batch, head, out, workspace),
                LmHead::Forward => lm_head_plans::forward(
                    &DEVICE, batch, head, ref_logps, loss, out, pairs, gradients, workspace,
                ),
                LmHead::Backward => {
                    lm_head_plans::backward(&DEVICE, batch, head, inputs, gradients, workspace)
                }
            }
        }
    }

    /// # Safety
    ///
    /// That of [`call`](Self::call).
    #[cfg(feature = "cuda")]
    unsafe fn plan_for_gpu(&self, stage: Stage) -> dpo_result {
        let Arguments { batch, inputs, loss, out, pair_outputs, gradient, .. } = *self;
        let Arguments { logps, ref_logps, scored, factored, workspace, status, .. } = *self;
        if stage == Stage::LmHead(LmHead::Plan) {
            // SAFETY: the caller's promise. No device is needed.
            return unsafe { self.run_on_gpu(stage, ptr::null(), ptr::null(), ptr::null_mut()) };
        }
        let device = &DEVICE;
        // SAFETY: the caller's promise.
        let plan = || unsafe {
            match stage {
                Stage::Logps => plans::logps(device, batch, inputs, out, workspace),
                Stage::PairLoss => {
                    plans::pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs, status)
                }
                Stage::Forward => {
                    plans::forward(device, batch, inputs, ref_logps, loss, out, pair_outputs, workspace)
                }
                Stage::Factored => plans::factored(
                    device,
                    batch,
                    inputs,
                    ref_logps,
                    loss,
                    out,
                    pair_outputs,
                    factored,
                    workspace,
                ),
                Stage::Backward => plans::backward(device, batch, inputs, gradient),
                Stage::LmHead(call) => self.pass_behind_head(call).map(|pass| pass.plan),
            }
        };
        guard(|| Ok(plan().map(drop)?))
    }
}
