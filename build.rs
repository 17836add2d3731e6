//! Compiles kernels/*.cu through NVRTC into the images that the crate embeds. Without the feature `cuda` it does
//! nothing. Needs no GPU, no driver, no CUDA header and no nvcc.

#[cfg(feature = "cuda")]
#[path = "build/compile.rs"]
mod compile;
#[cfg(feature = "cuda")]
#[path = "build/nvrtc.rs"]
mod nvrtc;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(message) = images::embed() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

#[cfg(feature = "cuda")]
mod images {
    use std::env;
    use std::ffi::CString;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;
    use std::thread;

    use crate::compile::{self, Source, Target};
    use crate::nvrtc;

    const ARCHS: &str = "DPO_KERNELS_ARCHS";
    const LINE_INFO: &str = "DPO_KERNELS_LINE_INFO";
    const DEFAULT_TARGETS: [Target; 5] =
        [Target::Cubin(80), Target::Cubin(90), Target::Cubin(100), Target::Cubin(120), Target::Ptx(80)];

    pub fn embed() -> Result<(), String> {
        println!("cargo:rerun-if-changed=build");
        println!("cargo:rerun-if-changed=kernels");
        for variable in nvrtc::VARIABLES.iter().chain(&[ARCHS, LINE_INFO, "DOCS_RS"]) {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        // docs.rs has neither NVRTC nor a network; the documentation needs no kernels.
        let table = if env::var_os("DOCS_RS").is_some() { "&[]".to_string() } else { compile_all()? };
        write(&out_dir().join("images.rs"), table.as_bytes())
    }

    /// Compiles every source for every target, and returns the Rust expression of the table of images.
    fn compile_all() -> Result<String, String> {
        let search =
            nvrtc::search(|name| env::var_os(name), nvrtc::site_packages(env::var_os("VIRTUAL_ENV")));
        let library = search.found.as_ref().ok_or_else(|| search.to_string())?;
        println!("cargo:rerun-if-changed={}", library.display());
        compile::load(library)?;
        let targets = targets()?;
        // NVRTC takes the names of the sources to be relative to here, and puts the result into the line information.
        env::set_current_dir("kernels").map_err(|error| format!("kernels: {error}"))?;
        let headers = sources(&["cuh", "h"])?;
        let units = sources(&["cu"])?;
        let compiled = thread::scope(|scope| {
            let jobs: Vec<_> = targets
                .iter()
                .map(|&target| {
                    let (units, headers) = (&units, &headers);
                    scope.spawn(move || {
                        units
                            .iter()
                            .map(|unit| compile_one(unit, headers, target))
                            .collect::<Result<String, _>>()
                    })
                })
                .collect();
            jobs.into_iter()
                .map(|job| job.join().expect("a compile job panicked"))
                .collect::<Result<String, _>>()
        })?;
        Ok(format!("&[\n{compiled}]"))
    }

    /// Compiles one source for one target, and returns its entry in the table.
    fn compile_one(unit: &Source, headers: &[Source], target: Target) -> Result<String, String> {
        let name = unit.name.to_string_lossy();
        // It makes machine code three times as large, which is linked into every program. The PTX is what the tests'
        // interpreter runs, and it names lines.
        let line_info = matches!(target, Target::Ptx(_)) || env::var_os(LINE_INFO).is_some();
        let compiled = compile::compile(unit, headers, target, line_info)
            .map_err(|log| format!("kernels/{name} does not compile for {target}: {log}"))?;
        let stem = name.trim_end_matches(".cu");
        let file = out_dir().join(format!("{stem}.{target}"));
        write(&file, &compiled.image)?;
        let kind = if matches!(target, Target::Ptx(_)) { "Ptx" } else { "Cubin" };
        let mut entry = String::new();
        writeln!(
            entry,
            "    Image {{ unit: {stem:?}, kind: Kind::{kind}, capability: {}, report: {:?},\n        \
             bytes: &Aligned(*include_bytes!({:?})).0 }},",
            target.capability(),
            compiled.report,
            file,
        )
        .expect("writing to a String");
        Ok(entry)
    }

    /// What DPO_KERNELS_ARCHS asks for, or as many of the defaults as this NVRTC knows.
    fn targets() -> Result<Vec<Target>, String> {
        let supported = compile::supported();
        let (major, minor) = compile::version();
        let unknown = |target: &Target| !supported.contains(&target.capability());
        let Some(list) = env::var(ARCHS).ok().filter(|list| !list.trim().is_empty()) else {
            for target in DEFAULT_TARGETS.iter().filter(|target| unknown(target)) {
                println!("cargo:warning=NVRTC {major}.{minor} cannot compile for {target}: no image for it");
            }
            return Ok(DEFAULT_TARGETS.into_iter().filter(|target| !unknown(target)).collect());
        };
        let targets = list
            .split([',', ';', ' '])
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                Target::parse(entry).ok_or_else(|| {
                    format!("{ARCHS}: expected entries such as 90, sm_90 or compute_80, found {entry:?}")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        match targets.iter().find(|target| unknown(target)) {
            Some(target) => Err(format!(
                "{ARCHS}: expected capabilities that NVRTC {major}.{minor} supports ({supported:?}), found {target}"
            )),
            None => Ok(targets),
        }
    }

    /// The files of the current folder, kernels/, with one of these extensions, by name.
    fn sources(extensions: &[&str]) -> Result<Vec<Source>, String> {
        let entries = fs::read_dir(".").map_err(|error| format!("kernels: {error}"))?;
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                extensions.iter().any(|&extension| path.extension().is_some_and(|e| e == extension))
            })
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| {
                let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let nul = |_| format!("{}: contains a NUL byte", path.display());
                Ok(Source { name: CString::new(name).map_err(nul)?, text: CString::new(text).map_err(nul)? })
            })
            .collect()
    }

    fn out_dir() -> std::path::PathBuf {
        env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
    }

    fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
        fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
    }
}
