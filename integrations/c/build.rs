//! Gives the shared library the name by which programs ask for it when they start: that of all versions with
//! the same ABI.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| env::var(name).expect("cargo sets it");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    // By semantic versioning a minor version may change anything as long as the major one is 0.
    let (major, minor) = (variable("CARGO_PKG_VERSION_MAJOR"), variable("CARGO_PKG_VERSION_MINOR"));
    let compatible = if major == "0" { format!("{major}.{minor}") } else { major };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdpo_kernels_c.so.{compatible}");
}
