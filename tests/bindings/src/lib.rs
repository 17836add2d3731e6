//! Rust that bindgen makes of a C header is committed, so that users need no libclang, and compared with a fresh run.

use std::fs;
use std::path::Path;

/// Fails unless `committed` is what `builder` makes of `header`, both relative to `package`, a folder of the workspace.
///
/// `DPO_UPDATE_PARAMS=1` (`make params`) writes the file anew.
pub fn assert_fresh(builder: bindgen::Builder, package: &str, header: &str, committed: &str) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(package);
    let fresh = builder
        .header(package.join(header).to_str().expect("paths in UTF-8"))
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
    let committed = package.join(committed);
    if std::env::var_os("DPO_UPDATE_PARAMS").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    let found = fs::read_to_string(&committed).unwrap_or_default();
    let stale = format!("{} is not what bindgen makes of {header}: run `make params`", committed.display());
    assert!(found == fresh, "{stale}");
}
