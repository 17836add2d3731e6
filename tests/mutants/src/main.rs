//! `make mutants`: applies each mutation to a scratch copy of the kernels, and runs the differential suite on the interpreter with
//! it, which compiles what it comes to of the units that the mutation changes. Every mutant must be killed; a table says by what. Arguments restrict the run to the
//! mutants whose file or description contains one of them: `make mutants ONLY="row_team.cuh slice"`. A run that was cut off
//! goes on from the number of its first mutant without a verdict: `make mutants FROM=64`.

#[path = "../../../build/compile.rs"]
#[allow(dead_code)] // the build script uses all of it
mod compile;
#[path = "../../../build/nvrtc.rs"]
#[allow(dead_code)]
mod nvrtc;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::CString;
use std::fs;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use compile::{Source, Target};
use table::{MUTANTS, Mutant};

/// Sources by file name.
type Kernels = BTreeMap<String, String>;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(alive) => {
            eprintln!("{alive} mutants survived");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Number of survivors.
fn run() -> Result<usize, String> {
    let search = nvrtc::search(|name| env::var_os(name), nvrtc::site_packages(env::var_os("VIRTUAL_ENV")));
    compile::load(search.found.as_ref().ok_or_else(|| search.to_string())?)?;
    let kernels = read("kernels")?;

    let only: Vec<String> = env::args().skip(1).collect();
    let from: usize = match env::var("FROM") {
        Ok(number) if !number.is_empty() => {
            number.parse().map_err(|_| format!("FROM: expected the number of a mutant, found {number:?}"))?
        }
        _ => 1,
    };
    let wanted = |number: usize, mutant: &Mutant| {
        let named = |word: &String| mutant.file.contains(word) || mutant.what.contains(word);
        number >= from && (only.is_empty() || only.iter().any(named))
    };
    // All are applied, so that none can go stale behind a restriction.
    let mutated: Vec<(usize, &Mutant, Kernels)> = (1..)
        .zip(MUTANTS)
        .map(|(number, mutant)| Ok((number, mutant, apply(mutant, &kernels)?)))
        .filter(|applied| applied.as_ref().map_or(true, |(number, mutant, _)| wanted(*number, mutant)))
        .collect::<Result<_, String>>()?;
    if mutated.is_empty() {
        return Err(format!(
            "expected words that some mutant's file or description contains, found {only:?}, from number {from} on"
        ));
    }

    let suite = build_suite()?;
    let ptx = compile_units(&kernels)?;
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(mutated.len());
    let folders: Vec<PathBuf> =
        (0..workers).map(|i| Path::new("target/mutants").join(i.to_string())).collect();
    lay_out(&kernels, &ptx, None, &folders[0])?;
    if let Some(complaint) = suite_complains(&suite, &folders[0], false)? {
        return Err(format!("the suite fails on the kernels as they are: {complaint}"));
    }
    println!("{:>3} {:<49} {:<14} killed by", "", "mutant", "file");
    // A suite of a mutant takes one processor, so there is a worker for every one.
    let (next, alive) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |folder: &Path| -> Result<(), String> {
        while let Some((number, mutant, kernels)) = mutated.get(next.fetch_add(1, Ordering::Relaxed)) {
            lay_out(kernels, &ptx, Some(mutant.file), folder)?;
            let verdict = suite_complains(&suite, folder, true)?.unwrap_or_else(|| {
                alive.fetch_add(1, Ordering::Relaxed);
                "SURVIVED".into()
            });
            if verdict.contains("does not compile") {
                return Err(format!("{}: {verdict}", mutant.what));
            }
            println!("{number:>3} {:<49} {:<14} {verdict}", mutant.what, mutant.file);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let working: Vec<_> = folders.iter().map(|folder| scope.spawn(|| work(folder))).collect();
        working.into_iter().try_for_each(|worker| worker.join().expect("workers do not panic"))
    })?;
    let alive = alive.into_inner();
    println!("{} mutants, {} killed", mutated.len(), mutated.len() - alive);
    Ok(alive)
}

fn read(folder: &str) -> Result<Kernels, String> {
    let text = |text: &CString| text.to_string_lossy().into_owned();
    Ok(compile::sources(Path::new(folder))?.iter().map(|s| (text(&s.name), text(&s.text))).collect())
}

fn apply(mutant: &Mutant, kernels: &Kernels) -> Result<Kernels, String> {
    let mut mutated = kernels.clone();
    let text = mutated.get_mut(mutant.file).ok_or_else(|| format!("no file kernels/{}", mutant.file))?;
    let times = text.matches(mutant.from).count();
    if times != 1 {
        return Err(format!(
            "{}: {:?} stands {times} times in kernels/{}",
            mutant.what, mutant.from, mutant.file
        ));
    }
    *text = text.replacen(mutant.from, mutant.to, 1);
    Ok(mutated)
}

fn is_unit(name: &str) -> bool {
    name.ends_with(".cu")
}

/// PTX of every .cu file, by its name with that ending.
fn compile_units(kernels: &Kernels) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let source = |(name, text): (&String, &String)| Source {
        name: CString::new(name.as_str()).expect("file names have no NUL"),
        text: CString::new(text.as_str()).expect("sources have no NUL"),
    };
    let headers: Vec<Source> = kernels.iter().filter(|(name, _)| !is_unit(name)).map(source).collect();
    let compile = &|unit: (&String, &String)| {
        let compiled = compile::compile(&source(unit), &headers, Target::Ptx(80), true)?;
        Ok((unit.0.replace(".cu", ".ptx"), compiled.image))
    };
    thread::scope(|scope| {
        let units = kernels.iter().filter(|(name, _)| is_unit(name));
        let compiling: Vec<_> = units.map(|unit| scope.spawn(move || compile(unit))).collect();
        compiling.into_iter().map(|unit| unit.join().expect("compilers do not panic")).collect()
    })
}

/// Writes the sources into `folder`, and the PTX of units that are not, and do not include, the changed file.
fn lay_out(
    kernels: &Kernels,
    ptx: &BTreeMap<String, Vec<u8>>,
    changed: Option<&str>,
    folder: &Path,
) -> Result<(), String> {
    let write = |name: &str, contents: &[u8]| {
        let path = folder.join(name);
        let parent = path.parent().expect("it is in the folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, contents))
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    for (name, text) in kernels {
        write(name, text.as_bytes())?;
    }
    for (name, compiled) in ptx {
        let unit = name.replace(".ptx", ".cu");
        if changed.is_some_and(|changed| included(kernels, &unit).contains(changed)) {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("{name}: {error}"));
                }
                _ => (),
            }
        } else {
            write(name, compiled)?;
        }
    }
    Ok(())
}

/// A source and all that it includes.
fn included(kernels: &Kernels, name: &str) -> BTreeSet<String> {
    let direct = kernels[name].lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let mut all: BTreeSet<String> = direct.flat_map(|header| included(kernels, header)).collect();
    all.insert(name.to_string());
    all
}

/// Builds the suite, and keeps a copy of it, whatever becomes of the sources and their builds meanwhile; where that is.
fn build_suite() -> Result<PathBuf, String> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--workspace", "--test", "differential", "--no-run"])
        .output()
        .map_err(|error| format!("cargo test: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Executable tests/differential/main.rs (target/debug/deps/differential-0123456789abcdef)
    let line = said.lines().find(|line| line.trim_start().starts_with("Executable"));
    let named = line.and_then(|line| line.split_once('(')?.1.strip_suffix(')'));
    let built = named.ok_or_else(|| format!("the suite was not built:\n{said}"))?;
    let kept = PathBuf::from("target/mutants/suite");
    fs::create_dir_all("target/mutants")
        .and_then(|()| fs::copy(built, &kept))
        .map_err(|error| format!("{}: {error}", kept.display()))?;
    Ok(kept)
}

/// Runs the interpreted suite on the sources and PTX of a folder; what it complains of, in one line, or `None`. Of a mutant one
/// complaint is enough.
fn suite_complains(suite: &Path, folder: &Path, of_mutant: bool) -> Result<Option<String>, String> {
    let folder = fs::canonicalize(folder).map_err(|error| error.to_string())?;
    let mut command = Command::new(suite);
    if of_mutant {
        command.env("DPO_FAIL_FAST", "1");
    }
    let output = command
        .arg("interpreted")
        .env("DPO_PTX_DIR", &folder)
        .env("DPO_KERNELS_DIR", &folder)
        .env("DPO_REDUCED", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .map_err(|error| format!("{}: {error}", suite.display()))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next().ok_or_else(|| format!("the suite did not run:\n{said}"))?;
    let complaint: String = lines.next().unwrap_or("").chars().take(110).collect();
    Ok(Some(complaint))
}
