//! What the CUDA side refuses: a missing driver, device or kernel image is an error value, never a panic.
#![cfg(feature = "cuda")]

use dpo_kernels::Error;
use dpo_kernels::cuda::{self, Kernels, Products};

/// On a machine without a driver every way in says so; on one with a driver there is nothing to see here.
#[test]
fn a_missing_driver_is_an_error_value() {
    let Err(error) = cuda::device_count() else { return };
    let Error::NoDriver { searched, reason } = &error else { panic!("not about the driver: {error}") };
    assert!(searched.contains(&"libcuda.so.1") && !reason.is_empty());
    assert!(error.to_string().starts_with("CUDA driver: expected one of"), "{error}");
    assert!(matches!(cuda::context(0), Err(Error::NoDriver { .. })));
    assert!(matches!(Kernels::load_current(), Err(Error::NoDriver { .. })));
}

/// On a machine without cuBLASLt the files that were looked for are named; on one with it and without a driver, the driver.
#[test]
fn a_missing_library_for_products_is_an_error_value() {
    let Err(error) = Products::load_current() else { return };
    match &error {
        Error::NoCublasLt { searched, reason } => {
            assert!(searched.contains(&"libcublasLt.so.12") && searched.contains(&"libcublasLt.so.13"));
            assert!(searched.iter().all(|name| reason.contains(name)), "{reason}");
            assert!(error.to_string().starts_with("cuBLASLt: expected one of"), "{error}");
        }
        Error::NoDriver { .. } | Error::Cublas { .. } => (),
        _ => panic!("not about the library: {error}"),
    }
}

#[test]
fn messages_name_what_was_expected_and_what_came() {
    let error = Error::NoDevice { ordinal: 3, available: 2 };
    assert_eq!(error.to_string(), "device 3: expected an ordinal below 2, the number of CUDA devices");
    let error = Error::NoImage { device: (7, 5), embedded: vec!["sm_80".into(), "compute_80".into()] };
    assert_eq!(
        error.to_string(),
        "kernel images: expected one for compute capability 7.5, found [\"sm_80\", \"compute_80\"] \
         (set DPO_KERNELS_ARCHS when building)"
    );
    let error = Error::Cublas { call: "cublasLtMatmul", status: 13 };
    assert_eq!(error.to_string(), "cublasLtMatmul: expected success, found status 13");
    let error = Error::Driver { call: "cuLaunchKernel", message: "invalid argument".into() };
    assert_eq!(error.to_string(), "cuLaunchKernel: invalid argument");
}
