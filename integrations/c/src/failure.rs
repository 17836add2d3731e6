//! What goes wrong, as C sees it: a code, a message kept for the thread, and nothing that unwinds.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dpo_kernels::Error;

use crate::header::*;

/// A code and what there is to say about it.
pub(crate) struct Failure {
    code: dpo_result,
    message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Arguments that have another name in the header, and that name.
const NAMES: [(&str, &str); 5] = [
    ("tau", "parameters"),
    ("desirable_weight", "parameters"),
    ("undesirable_weight", "parameters"),
    ("gradients.upstream", "upstream"),
    ("gradients.nonfinite_row", "nonfinite_row"),
];

/// The header's name of an argument, where that is not the crate's.
pub(crate) fn header_name(argument: &str) -> Option<&'static str> {
    NAMES.iter().find(|(name, _)| *name == argument).map(|(_, header)| *header)
}

/// The same error with the argument's name, where there is another one for it.
pub(crate) fn renamed(error: Error, name: impl Fn(&str) -> Option<&'static str>) -> Error {
    match error {
        Error::Value { argument, expected, found } => {
            Error::Value { argument: name(argument).unwrap_or(argument), expected, found }
        }
        other => other,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let error = renamed(error, header_name);
        let code = match &error {
            Error::Length { .. } | Error::Value { .. } => DPO_ERROR_VALUE,
            Error::Index { .. } => DPO_ERROR_INDEX,
            Error::Missing { .. } => DPO_ERROR_MISSING,
            Error::Data(_) => DPO_ERROR_DATA,
            #[cfg(feature = "cuda")]
            Error::NoDriver { .. } => DPO_ERROR_NO_DRIVER,
            #[cfg(feature = "cuda")]
            Error::NoImage { .. } => DPO_ERROR_NO_IMAGE,
            #[cfg(feature = "cuda")]
            Error::NoCublasLt { .. } => DPO_ERROR_NO_CUBLASLT,
            #[cfg(feature = "cuda")]
            Error::Cublas { .. } => DPO_ERROR_CUBLASLT,
            #[cfg(feature = "cuda")]
            Error::Driver { .. } | Error::NoDevice { .. } => DPO_ERROR_DRIVER,
            _ => DPO_ERROR_INTERNAL,
        };
        Failure { code, message: error.to_string() }
    }
}

impl Failure {
    fn panicked(payload: &(dyn Any + Send)) -> Self {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = format!("defect in dpo-kernels: {}", said.unwrap_or("a panic without a message"));
        Failure { code: DPO_ERROR_INTERNAL, message }
    }

    /// For the GPU half of the header in a library built without it.
    #[cfg_attr(feature = "cuda", allow(dead_code))]
    pub(crate) fn unsupported() -> Self {
        let message = "CUDA: expected a library built with the feature cuda, found one without".into();
        Failure { code: DPO_ERROR_UNSUPPORTED, message }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of an exported function: nothing unwinds out of it, and a failure leaves its message.
pub(crate) fn guard(body: impl FnOnce() -> Result<()>) -> dpo_result {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let Err(failure) = outcome.unwrap_or_else(|payload| Err(Failure::panicked(&*payload))) else {
        return DPO_OK;
    };
    let message = CString::new(failure.message.replace('\0', "")).unwrap_or_default();
    LAST_ERROR.set(message);
    failure.code
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn dpo_last_error() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn dpo_version() -> u32 {
    DPO_VERSION
}

/// The header's version is the crate's.
const _: () = {
    const fn number(part: &str) -> u32 {
        match u32::from_str_radix(part, 10) {
            Ok(number) => number,
            Err(_) => panic!("cargo's version parts are numbers"),
        }
    }
    let major = number(env!("CARGO_PKG_VERSION_MAJOR"));
    let minor = number(env!("CARGO_PKG_VERSION_MINOR"));
    let patch = number(env!("CARGO_PKG_VERSION_PATCH"));
    assert!(DPO_VERSION == major * 10_000 + minor * 100 + patch);
};

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        assert_eq!(guard(|| panic!("row {} of none", 3)), DPO_ERROR_INTERNAL);
        // SAFETY: the message stays until the next failure on this thread.
        let message = unsafe { CStr::from_ptr(dpo_last_error()) };
        assert_eq!(message.to_str().unwrap(), "defect in dpo-kernels: row 3 of none");
    }

    #[test]
    fn messages_are_of_their_thread() {
        assert_eq!(guard(|| Err(Error::Missing { argument: "here", because: "of a test" }.into())), 3);
        let elsewhere = std::thread::spawn(|| {
            // SAFETY: as above.
            unsafe { CStr::from_ptr(dpo_last_error()) }.to_owned()
        });
        assert_eq!(elsewhere.join().unwrap(), CString::default());
    }
}
