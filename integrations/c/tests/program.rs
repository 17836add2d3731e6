//! tests/program.c, compiled by the system's C compiler against the header, linked with the library and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the static library needs of the system, as `rustc --print native-static-libs` has it.
const SYSTEM_LIBRARIES: [&str; 5] = ["-lgcc_s", "-lutil", "-lpthread", "-lm", "-ldl"];

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

/// Where cargo puts the libraries of this package: beside this test.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.parent().expect("in a folder").to_path_buf()
}

/// Compiles `source`, links it with the library of the given name, and returns what it prints.
fn compile_and_run(source: &Path, library: &str) -> String {
    let stem = source.file_stem().expect("a file").to_string_lossy();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{stem} with {library}"));
    run(Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude", "-o"])
        .args([&program, source, &libraries().join(library)])
        .args(SYSTEM_LIBRARIES));
    let backend = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };
    run(Command::new(&program).arg(backend).env("LD_LIBRARY_PATH", libraries()))
}

#[test]
fn a_c_program_runs_with_the_shared_library() {
    let out = compile_and_run(Path::new("tests/program.c"), "libdpo_kernels_c.so");
    assert!(out.ends_with("checks hold\n"), "{out}");
}

#[test]
fn a_c_program_runs_with_the_static_library() {
    let out = compile_and_run(Path::new("tests/program.c"), "libdpo_kernels_c.a");
    assert!(out.ends_with("checks hold\n"), "{out}");
}

#[test]
fn the_readme_program_runs() {
    let readme = fs::read_to_string("README.md").expect("the README is there");
    let (_, program) = readme.split_once("```c\n").expect("it has a C program");
    let (program, _) = program.split_once("```").expect("which ends");
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme.c");
    fs::write(&source, program).expect("a folder of cargo's to write to");
    let out = compile_and_run(&source, "libdpo_kernels_c.so");
    // Log-probs of 2 (3 - log(1 + e + e^2 + e^3)) and -log(2 + 2e), a margin of a tenth of their difference.
    assert_eq!(out, "loss 0.638430\n");
}

/// The header includes what it needs, and is C99.
#[test]
fn the_header_stands_alone() {
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args(["-x", "c", "include/dpo_kernels.h"]));
}
