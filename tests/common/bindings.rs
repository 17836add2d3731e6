//! Rust that bindgen makes of a C header is committed, so that users need no libclang, and compared with a fresh run.

use std::fs;

/// Fails unless `committed` is what `builder` makes of `header`; paths are relative to the package.
///
/// `DPO_UPDATE_PARAMS=1` (`make params`) writes the file anew.
pub fn assert_fresh(builder: bindgen::Builder, header: &str, committed: &str) {
    let fresh = builder
        .header(header)
        // System headers are found by the caller or not at all; comments become documentation.
        .clang_args(["-nostdinc", "-fparse-all-comments", "--target=x86_64-unknown-linux-gnu"])
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .use_core()
        .disable_header_comment()
        .raw_line(format!(
            "// Made by bindgen from {header} (`make params`); a test compares it with a fresh run."
        ))
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .unwrap_or_else(|error| panic!("{header}: {error}"))
        .to_string();
    if std::env::var_os("DPO_UPDATE_PARAMS").is_some() {
        fs::write(committed, &fresh).unwrap();
    }
    let found = fs::read_to_string(committed).unwrap_or_default();
    assert!(found == fresh, "{committed} is not what bindgen makes of {header}: run `make params`");
}
