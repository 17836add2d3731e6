//! src/cuda/params.rs is what bindgen makes of kernels/params.h.

#[test]
fn committed_bindings_are_fresh() {
    let builder = bindgen::Builder::default()
        .allowlist_item("Dpo.*|DPO_.*")
        .blocklist_item("DPO_PARAMS_H")
        .derive_default(true)
        .derive_partialeq(true);
    dpo_bindings::assert_fresh(builder, ".", "kernels/params.h", "src/cuda/params.rs");
}
