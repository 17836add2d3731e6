//! `make mutants`: applies each mutation to a scratch copy of the kernels, compiles it to PTX, and runs the differential
//! suite on the interpreter with it. Every mutant must be killed; a table says by what. Arguments restrict the run to the
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

    let everything = kernels.keys().cloned().collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(mutated.len());
    let folders: Vec<PathBuf> =
        (0..workers).map(|i| Path::new("target/mutants").join(i.to_string())).collect();
    for folder in &folders {
        build_ptx(&kernels, &everything, folder)?;
    }
    if let Some(complaint) = suite_complains(&folders[0])? {
        return Err(format!("the suite fails on the kernels as they are: {complaint}"));
    }
    println!("{:>3} {:<49} {:<14} killed by", "", "mutant", "file");
    // A compilation and the checks that come first take one processor each, so there is a worker for every one.
    let (next, alive) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |folder: &Path| -> Result<(), String> {
        // The PTX in the folder is of another mutant where that changed it.
        let mut changed = BTreeSet::new();
        while let Some((number, mutant, kernels)) = mutated.get(next.fetch_add(1, Ordering::Relaxed)) {
            changed.insert(mutant.file.to_string());
            build_ptx(kernels, &changed, folder).map_err(|error| format!("{}: {error}", mutant.what))?;
            changed = BTreeSet::from([mutant.file.to_string()]);
            let verdict = suite_complains(folder)?.unwrap_or_else(|| {
                alive.fetch_add(1, Ordering::Relaxed);
                "SURVIVED".into()
            });
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

/// Writes the sources into `folder`, and `UNIT.ptx` for every .cu file that is, or includes, one of the `changed`.
fn build_ptx(kernels: &Kernels, changed: &BTreeSet<String>, folder: &Path) -> Result<(), String> {
    let source = |(name, text): (&String, &String)| Source {
        name: CString::new(name.as_str()).expect("file names have no NUL"),
        text: CString::new(text.as_str()).expect("sources have no NUL"),
    };
    let is_unit = |(name, _): &(&String, &String)| name.ends_with(".cu");
    let headers: Vec<Source> = kernels.iter().filter(|entry| !is_unit(entry)).map(source).collect();
    for (name, text) in kernels {
        let path = folder.join(name);
        let parent = path.parent().expect("it is in the folder");
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let stale = |(name, _): &(&String, &String)| !changed.is_disjoint(&included(kernels, name));
    let compile = &|unit: (&String, &String)| {
        let path = folder.join(unit.0.replace(".cu", ".ptx"));
        let compiled = compile::compile(&source(unit), &headers, Target::Ptx(80), true)?;
        fs::write(&path, compiled.image).map_err(|error| format!("{}: {error}", path.display()))
    };
    thread::scope(|scope| {
        let units = kernels.iter().filter(is_unit).filter(stale);
        let compiling: Vec<_> = units.map(|unit| scope.spawn(move || compile(unit))).collect();
        compiling.into_iter().try_for_each(|unit| unit.join().expect("compilers do not panic"))
    })
}

/// A source and all that it includes.
fn included(kernels: &Kernels, name: &str) -> BTreeSet<String> {
    let direct = kernels[name].lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let mut all: BTreeSet<String> = direct.flat_map(|header| included(kernels, header)).collect();
    all.insert(name.to_string());
    all
}

/// Runs the interpreted suite on the PTX of a folder; what it complains of, in one line, or `None`.
fn suite_complains(folder: &Path) -> Result<Option<String>, String> {
    let folder = fs::canonicalize(folder).map_err(|error| error.to_string())?;
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--quiet", "--workspace", "--test", "differential", "interpreted"])
        .env("DPO_PTX_DIR", &folder)
        .env("DPO_KERNELS_DIR", &folder)
        .env("DPO_REDUCED", "1")
        .env("DPO_FAIL_FAST", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .map_err(|error| format!("cargo test: {error}"))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next().ok_or_else(|| format!("the suite did not run:\n{said}"))?;
    let complaint: String = lines.next().unwrap_or("").chars().take(110).collect();
    Ok(Some(complaint))
}
