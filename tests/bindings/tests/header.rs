//! integrations/c/src/header.rs is what bindgen makes of the C ABI's header.

use std::process::Command;

#[test]
fn committed_bindings_are_fresh() {
    // The compiler's own stdint.h and stddef.h, which need no C library where there is no hosted environment.
    let cc = Command::new("cc").arg("-print-file-name=include").output().expect("cc runs");
    let include = String::from_utf8(cc.stdout).expect("a path in UTF-8");
    let builder = bindgen::Builder::default()
        .clang_args(["-ffreestanding", "-isystem", include.trim()])
        .allowlist_item("dpo_.*|DPO_.*")
        .blocklist_item("DPO_KERNELS_H");
    dpo_bindings::assert_fresh(builder, "integrations/c", "include/dpo_kernels.h", "src/header.rs");
}
