//! cuBLASLt, as much of it as a product takes: loaded when it is asked for, and named by file where it is not there.
//!
//! The functions' types and the numbers of their attributes are those of the library's header, which have been the same in all
//! versions that have the functions.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;

use libloading::{Library, Symbol};

use crate::cuda::device::loader_reason;
use crate::error::{Error, Result};

/// File names of the library, as toolkits and wheels have it.
pub const LIBRARIES: [&str; 5] =
    ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "cublasLt64_13.dll", "cublasLt64_12.dll"];

/// What a call returns; 0 is success.
pub type Status = c_int;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: Status = 15;
/// A thing of the library's: a handle, a description, a layout or a preference.
pub type Opaque = *mut c_void;

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    pub algorithm: Algorithm,
    pub workspace_bytes: usize,
    pub status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

impl Choice {
    pub const NONE: Choice =
        Choice { algorithm: Algorithm([0; 8]), workspace_bytes: 0, status: 0, waves: 0.0, reserved: [0; 4] };
}

/// `CUBLAS_COMPUTE_32F`: sums in f32, and f32 factors as they are, not in TF32.
pub const COMPUTE_F32: c_int = 68;
/// `CUDA_R_32F`.
pub const TYPE_F32: c_int = 0;
/// `CUDA_R_16F`.
pub const TYPE_F16: c_int = 2;
/// `CUDA_R_16BF`.
pub const TYPE_BF16: c_int = 14;

/// `CUBLASLT_MATMUL_DESC_TRANSA`, of i32: 1 is transposed.
pub const TRANSPOSE_A: c_int = 3;
/// `CUBLASLT_MATMUL_DESC_TRANSB`.
pub const TRANSPOSE_B: c_int = 4;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE`, of u32.
pub const EPILOGUE: c_int = 7;
/// `CUBLASLT_EPILOGUE_BIAS`.
pub const EPILOGUE_BIAS: u32 = 4;
/// `CUBLASLT_MATMUL_DESC_BIAS_POINTER`.
pub const BIAS: c_int = 8;

/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, of u64.
pub const MOST_WORKSPACE_BYTES: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK`, of u32.
pub const REDUCTION_SCHEMES: c_int = 3;
/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: the parts of a sum that is split are kept in the workspace, in f32, and added in a fixed
/// order. Schemes that add into the result where it stands are left out of the mask; no split at all is in every mask.
pub const REDUCTION_IN_WORKSPACE: u32 = 2;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{A,B,C,D}_BYTES`, of u32.
pub const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];

/// A function of a library, by its name with a NUL behind it.
///
/// # Safety
///
/// The library's function of this name is an `F`.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> std::result::Result<F, libloading::Error> {
    // SAFETY: the caller's promise.
    let symbol: Symbol<'_, F> = unsafe { library.get(name.as_bytes()) }?;
    Ok(*symbol)
}

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal: fn($($argument:ty),*);)*) => {
        /// The functions of a library that is loaded.
        #[derive(Debug, Clone, Copy)]
        pub struct Functions {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn of(library: &Library) -> std::result::Result<Self, libloading::Error> {
                Ok(Functions {
                    // SAFETY: the library's function of this name has this type.
                    $($field: unsafe { function(library, concat!($symbol, "\0")) }?,)*
                })
            }
        }
    };
}

functions! {
    create = "cublasLtCreate": fn(*mut Opaque);
    destroy = "cublasLtDestroy": fn(Opaque);
    create_description = "cublasLtMatmulDescCreate": fn(*mut Opaque, c_int, c_int);
    describe = "cublasLtMatmulDescSetAttribute": fn(Opaque, c_int, *const c_void, usize);
    destroy_description = "cublasLtMatmulDescDestroy": fn(Opaque);
    create_layout = "cublasLtMatrixLayoutCreate": fn(*mut Opaque, c_int, u64, u64, i64);
    destroy_layout = "cublasLtMatrixLayoutDestroy": fn(Opaque);
    create_preference = "cublasLtMatmulPreferenceCreate": fn(*mut Opaque);
    prefer = "cublasLtMatmulPreferenceSetAttribute": fn(Opaque, c_int, *const c_void, usize);
    destroy_preference = "cublasLtMatmulPreferenceDestroy": fn(Opaque);
    choose = "cublasLtMatmulAlgoGetHeuristic":
        fn(Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, c_int, *mut Choice, *mut c_int);
    multiply = "cublasLtMatmul":
        fn(
            Opaque, Opaque, *const f32, *const c_void, Opaque, *const c_void, Opaque, *const f32, *const c_void, Opaque,
            *mut c_void, Opaque, *const Algorithm, *mut c_void, usize, *mut c_void
        );
}

impl Functions {
    /// Of the first of the files that is there and has all of them.
    ///
    /// # Errors
    ///
    /// [`Error::NoCublasLt`] with what the loader said of each.
    pub fn load(searched: &'static [&'static str]) -> Result<Self> {
        let mut reasons = vec![];
        for &name in searched {
            // SAFETY: the library is made to be loaded by name.
            let found = unsafe { Library::new(name) };
            match found.and_then(|library| Functions::of(&library).map(|functions| (library, functions))) {
                Ok((library, functions)) => {
                    // Kept open as long as its functions may be called: to the end.
                    mem::forget(library);
                    return Ok(functions);
                }
                Err(error) => reasons.push(loader_reason(&error)),
            }
        }
        Err(Error::NoCublasLt { searched, reason: reasons.join("; ") })
    }
}

/// What a call returned, as a result.
pub fn check(call: &'static str, status: Status) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Cublas { call, status }) }
}

/// A thing that `create` makes.
pub fn created(call: &'static str, create: impl FnOnce(*mut Opaque) -> Status) -> Result<Opaque> {
    let mut made = ptr::null_mut();
    check(call, create(&mut made))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        const NOWHERE: [&str; 2] = ["libcublasLt-is-not-here.so.1", "libcublasLt-is-not-there.so"];
        let Err(Error::NoCublasLt { searched, reason }) = Functions::load(&NOWHERE) else {
            panic!("a library of no such name was loaded")
        };
        assert_eq!(searched, NOWHERE);
        assert!(NOWHERE.iter().all(|name| reason.contains(name)), "{reason}");
    }

    /// A library without the functions, such as one of another version, is no panic either.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_function_that_is_not_there_is_named() {
        let Err(Error::NoCublasLt { reason, .. }) = Functions::load(&["libc.so.6"]) else {
            panic!("the C library multiplies no matrices")
        };
        assert!(reason.contains("cublasLtCreate"), "{reason}");
    }
}
