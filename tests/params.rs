//! src/cuda/params.rs is what bindgen makes of kernels/params.h, so that users of the crate need no libclang.
//!
//! `DPO_UPDATE_PARAMS=1 cargo test --test params` (or `make params`) writes the file anew.

use std::fs;

const HEADER: &str = "kernels/params.h";
const COMMITTED: &str = "src/cuda/params.rs";

fn generate() -> String {
    bindgen::Builder::default()
        .header(HEADER)
        // No system header is included, so none needs to be found; comments become documentation.
        .clang_args(["-nostdinc", "-fparse-all-comments", "--target=x86_64-unknown-linux-gnu"])
        .allowlist_item("Dpo.*|DPO_.*")
        .blocklist_item("DPO_PARAMS_H")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .use_core()
        .derive_default(true)
        .derive_partialeq(true)
        .disable_header_comment()
        .raw_line(
            "// Made by bindgen from kernels/params.h (`make params`); a test compares it with a fresh run.",
        )
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .expect("kernels/params.h is valid C")
        .to_string()
}

#[test]
fn committed_bindings_are_fresh() {
    let fresh = generate();
    if std::env::var_os("DPO_UPDATE_PARAMS").is_some() {
        fs::write(COMMITTED, &fresh).unwrap();
    }
    let committed = fs::read_to_string(COMMITTED).unwrap_or_default();
    assert!(committed == fresh, "{COMMITTED} is not what bindgen makes of {HEADER}: run `make params`");
}
