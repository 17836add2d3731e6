//! C programs, compiled by the system's C compiler against what is installed, and run: tests/program.c, and
//! the README's with the commands that the README has for it.

mod installed;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use installed::{Installed, built, install};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

/// A program that finds shared libraries in a folder besides the system's; without one it is without ours.
fn program(path: &Path, libraries: Option<&Path>) -> Command {
    let mut command = Command::new(path);
    command.env_remove("LD_LIBRARY_PATH");
    command.envs(libraries.map(|libraries| ("LD_LIBRARY_PATH", libraries)));
    command
}

/// The parts of a README between a fence and its end.
fn of_readme(readme: &str, fence: &str) -> Vec<String> {
    let readme = fs::read_to_string(readme).expect("the README is there");
    let parts = readme.split(fence).skip(1);
    parts.map(|part| part.split_once("```").expect("which ends").0.to_string()).collect()
}

/// The whole programs of the README.
fn programs_of_readme() -> Vec<String> {
    of_readme("README.md", "```c\n").into_iter().filter(|part| part.contains("int main")).collect()
}

#[test]
fn programs_run_with_what_is_installed() {
    let installed = Installed::new();
    let libraries = installed.libraries();
    let backend = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };
    let strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];

    let compile = |program: &Path, first: &[&str], is_static: bool| {
        let mut command = Command::new("cc");
        command.args(strict).arg("-o").arg(program).arg("tests/program.c").args(first);
        // The program takes logarithms of its own, and where there is a GPU memory of the driver's.
        run(command.args(installed.flags(is_static)).args(["-lm", "-ldl"]));
    };

    // The shared library is asked for by its name for this ABI: the one for linking may be gone.
    let shared = installed.prefix().join("shared");
    compile(&shared, &[], false);
    let for_linking = libraries.join("libdpo_kernels_c.so");
    let linked = fs::read_link(&for_linking).expect("a link");
    fs::remove_file(&for_linking).expect("it can be removed");
    let out = run(program(&shared, Some(&libraries)).arg(backend));
    assert!(out.ends_with("checks hold\n"), "{out}");
    std::os::unix::fs::symlink(linked, &for_linking).expect("it can be there again");

    // With the static one there is none to be found.
    let with_static = installed.prefix().join("static");
    compile(&with_static, &["-l:libdpo_kernels_c.a", "-Wl,--as-needed"], true);
    let out = run(program(&with_static, None).arg(backend));
    assert!(out.ends_with("checks hold\n"), "{out}");

    // The README's programs, by each of its commands.
    let folder = installed.prefix().join("readme");
    fs::create_dir(&folder).expect("a folder to write to");
    let commands = of_readme("README.md", "```sh\n").concat();
    let commands: Vec<&str> = commands.lines().filter(|line| line.starts_with("cc ")).collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    // The chosen sequence has a log-prob of 2 (3 - log(1 + e + e^2 + e^3)), the rejected one of -log(2 + 2e) from logits and of
    // -log 4 from hidden states; the margin is a tenth of their difference.
    let programs = programs_of_readme();
    assert_eq!(programs.len(), 2, "{programs:?}");
    for (program_of_readme, said) in programs.iter().zip(["loss 0.638430\n", "loss 0.668171\n"]) {
        fs::write(folder.join("train.c"), program_of_readme).expect("a file to write");
        for command in &commands {
            let flags = |is_static| installed.flags(is_static).join(" ");
            let command = command
                .replace("$(pkg-config --cflags --libs dpo-kernels-c)", &flags(false))
                .replace("$(pkg-config --cflags --libs --static dpo-kernels-c)", &flags(true));
            assert!(!command.contains("$("), "{command}");
            run(Command::new("sh").args(["-c", &command]).current_dir(&folder));
            let libraries = (!command.contains(".a ")).then_some(&*libraries);
            assert_eq!(run(&mut program(&folder.join("a.out"), libraries)), said, "{command}");
        }
    }
}

/// What the README has for a GPU is compiled, and needs nothing of CUDA for that.
#[test]
fn functions_of_the_readme_compile() {
    let parts = of_readme("README.md", "```c\n");
    let is_whole = |part: &&String| part.contains("#include") && !part.contains("int main");
    let functions: Vec<&String> = parts.iter().filter(is_whole).collect();
    assert_eq!(functions.len(), 1, "{functions:?}");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let source = folder.path().join("step.c");
    fs::write(&source, functions[0]).expect("a file to write");
    let strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-Iinclude"];
    run(Command::new("cc").args(strict).arg(source));
}

/// What the repository's README shows of C are lines of the program that has been run.
#[cfg(in_repository)]
#[test]
fn the_readme_of_the_repository_shows_lines_of_a_program() {
    let trimmed = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let programs: Vec<String> = programs_of_readme().iter().map(|program| trimmed(program)).collect();
    let shown = of_readme("../../README.md", "```c\n");
    assert_eq!(shown.len(), 1, "{shown:?}");
    for part in &shown {
        assert!(programs.iter().any(|program| program.contains(&trimmed(part))), "{part}");
    }
}

/// Below DESTDIR, and nothing of that in what is installed; a folder of libraries apart.
#[test]
fn packages_are_installed_below_destdir() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let [prefix, libdir] = ["/usr", "/usr/lib64"].map(Path::new);
    let output = install(&[("PREFIX", prefix), ("LIBDIR", libdir), ("DESTDIR", folder.path())], &built());
    assert!(output.status.success(), "{output:?}");

    let libraries = folder.path().join("usr/lib64");
    let version = env!("CARGO_PKG_VERSION");
    let whole = format!("libdpo_kernels_c.so.{version}");
    let link = |name: &str| fs::read_link(libraries.join(name)).expect("a link");
    let soname = link("libdpo_kernels_c.so");
    assert_eq!(link(soname.to_str().expect("text")).as_os_str(), OsStr::new(&whole));
    for file in [&whole[..], "libdpo_kernels_c.a", "pkgconfig/dpo-kernels-c.pc"] {
        assert!(libraries.join(file).is_file(), "{file}");
    }
    let header = fs::read(folder.path().join("usr/include/dpo_kernels.h")).expect("the header");
    assert_eq!(header, fs::read("include/dpo_kernels.h").expect("the header"));
    let package = fs::read_to_string(libraries.join("pkgconfig/dpo-kernels-c.pc")).expect("the file");
    assert!(
        package.starts_with("prefix=/usr\nlibdir=${prefix}/lib64\nincludedir=${prefix}/include\n"),
        "{package}"
    );
    assert!(package.contains(&format!("\nVersion: {version}\n")), "{package}");
    assert!(!package.contains(folder.path().to_str().expect("text")), "{package}");
}

/// What cannot be installed is said, and nothing is.
#[test]
fn what_cannot_be_installed_is_said() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let empty = folder.path();
    let built = built();
    for (prefix, built, said) in [
        (Path::new("/usr"), empty, "has no libdpo_kernels_c.so"),
        (Path::new("usr"), &built, "expected an absolute path, found \"usr\""),
        (Path::new("/usr/my files"), &built, "found \"/usr/my files\""),
    ] {
        let output = install(&[("PREFIX", prefix), ("DESTDIR", empty)], built);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{output:?}");
    }
    assert_eq!(fs::read_dir(empty).expect("a folder").count(), 0);
}

/// The header includes what it needs, and is C99.
#[test]
fn the_header_stands_alone() {
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args(["-x", "c", "include/dpo_kernels.h"]));
}
