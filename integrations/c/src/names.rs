//! The names that errors have for arguments, and those of the header, for tests that compare them.

use std::collections::BTreeSet;
use std::ffi::CStr;

use crate::failure::dpo_last_error;

/// What the last refused call said.
pub(crate) fn message() -> String {
    // SAFETY: the message stays until the next failure on this thread.
    unsafe { CStr::from_ptr(dpo_last_error()) }.to_str().expect("UTF-8").to_string()
}

/// What the last refused call named: what stands before the colon.
pub(crate) fn named() -> String {
    message().split(':').next().expect("there is a first part").to_string()
}

/// The same without the position of an entry: `rejected` of `rejected[0]`.
pub(crate) fn without_position(argument: &str) -> &str {
    argument.split('[').next().expect("there is a first part")
}

/// The names of fields and parameters of the header.
pub(crate) struct HeaderNames(BTreeSet<String>);

impl HeaderNames {
    /// What stands before the end of a declaration.
    pub fn read() -> Self {
        let header = include_str!("../include/dpo_kernels.h");
        let mut code = String::new();
        for (place, part) in header.split("/*").enumerate() {
            code += if place == 0 { part } else { part.split_once("*/").expect("comments end").1 };
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let ends = code.match_indices([';', ',', ')', '[']);
        let names =
            ends.map(|(end, _)| code[..end].trim_end().rsplit(|c| !is_name(c)).next().expect("a part"));
        // Types and functions have the prefix, enumerators and constants are in capitals, lengths are
        // numbers.
        let names: BTreeSet<String> = names
            .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.starts_with("dpo_"))
            .map(String::from)
            .collect();
        for expected in ["struct_size", "logits", "valid_vocab", "parameters", "pair_outputs", "bytes"] {
            assert!(names.contains(expected), "{expected} in {names:?}");
        }
        HeaderNames(names)
    }

    /// Whether an argument that an error names, such as `transform.scale` or `rejected[0]`, is one of them.
    pub fn has(&self, argument: &str) -> bool {
        without_position(argument).split('.').all(|part| self.0.contains(part))
    }
}
