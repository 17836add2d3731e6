//! The C ABI of [`dpo_kernels`]: what `include/dpo_kernels.h` declares and documents.
//!
//! The header is the one source of structs and signatures. `header` is what bindgen makes of it, committed and compared
//! with a fresh run by a test; the functions here take its structs, and each is held to its declared signature by the
//! compiler. What is here is adaptation alone: pointers are judged, enumerators and structs translated, errors given a
//! code and a message, and panics stopped. The work is the crate's.
//!
//! | module | what |
//! |---|---|
//! | `pointers` | pointers of the caller's, judged |
//! | `given` | the one convention for what is absent |
//! | `batch`, `inputs`, `lm_head`, `loss`, `gradient` | what calls read, in the crate's terms |
//! | `results`, `records` | what calls write |
//! | `cpu`, `cuda` | the functions of the header |
//! | `failure` | errors as codes and messages |
#![warn(unsafe_op_in_unsafe_fn)]

#[cfg(test)]
mod argument_names;
mod batch;
#[cfg(test)]
mod calls;
mod cpu;
mod cuda;
mod failure;
mod given;
mod gradient;
#[cfg_attr(feature = "cuda", deny(dead_code))] // what the header declares and nothing defines or uses
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // errors of the GPU
#[allow(non_camel_case_types)]
#[rustfmt::skip]
mod header;
mod inputs;
mod lm_head;
mod loss;
#[cfg(test)]
mod names;
mod pointers;
#[cfg(all(test, in_repository))]
mod random_calls;
mod records;
mod results;

/// Holds each definition to its declaration in the header: two functions of one array have one signature.
macro_rules! defined {
    ($($($module:ident)::+ { $($function:ident),* $(,)? })*) => {
        $(const _: () = {
            use $($module)::+ as defined;
            $(let _ = [header::$function, defined::$function];)*
        };)*
    };
}

defined! {
    failure { dpo_version, dpo_last_error }
    records { dpo_status_check }
    cpu { dpo_cpu_logps, dpo_cpu_pair_loss, dpo_cpu_forward, dpo_cpu_factored, dpo_cpu_backward }
    cpu::lm_head_workspace { dpo_cpu_lm_head_workspace_create, dpo_cpu_lm_head_workspace_free }
    cpu::lm_head {
        dpo_cpu_lm_head_plan, dpo_cpu_lm_head_logps, dpo_cpu_lm_head_forward, dpo_cpu_lm_head_backward,
    }
    cuda {
        dpo_cuda_load, dpo_cuda_free, dpo_cuda_workspace_size, dpo_cuda_logps, dpo_cuda_pair_loss,
        dpo_cuda_forward, dpo_cuda_factored, dpo_cuda_backward,
        dpo_cuda_products_create, dpo_cuda_products_free,
    }
    cuda::lm_head {
        dpo_cuda_lm_head_workspace_size, dpo_cuda_lm_head_plan, dpo_cuda_lm_head_logps,
        dpo_cuda_lm_head_forward, dpo_cuda_lm_head_backward,
    }
}
