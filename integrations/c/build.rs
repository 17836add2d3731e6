//! Gives the shared library the name by which programs ask for it when they start: that of all versions with
//! the same ABI. And says whether this is the repository, whose tests' common code the package alone lacks.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(in_repository)");
    if Path::new("../../tests/common").is_dir() {
        println!("cargo:rustc-cfg=in_repository");
    }
    let variable = |name| env::var(name).expect("cargo sets it");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    // By semantic versioning a minor version may change anything as long as the major one is 0.
    let (major, minor) = (variable("CARGO_PKG_VERSION_MAJOR"), variable("CARGO_PKG_VERSION_MINOR"));
    let compatible = if major == "0" { format!("{major}.{minor}") } else { major };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdpo_kernels_c.so.{compatible}");
}
