//! src/header.rs is what bindgen makes of include/dpo_kernels.h.

use std::process::Command;

#[path = "../../../tests/common/bindings.rs"]
mod bindings;

#[test]
fn committed_bindings_are_fresh() {
    // The compiler's own stdint.h and stddef.h, which need no C library where there is no hosted environment.
    let cc = Command::new("cc").arg("-print-file-name=include").output().expect("cc runs");
    let include = String::from_utf8(cc.stdout).expect("a path in UTF-8");
    let builder = bindgen::Builder::default()
        .clang_args(["-ffreestanding", "-isystem", include.trim()])
        .allowlist_item("dpo_.*|DPO_.*")
        .blocklist_item("DPO_KERNELS_H");
    bindings::assert_fresh(builder, "include/dpo_kernels.h", "src/header.rs");
}
