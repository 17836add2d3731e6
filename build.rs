//! Compiles kernels/*.cu through NVRTC into the images that the crate embeds, and compresses them. Without the feature
//! `cuda` it does nothing. Needs no GPU, no driver, no CUDA header and no nvcc.

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
    use std::fmt::Write as _;
    use std::fs;
    use std::iter;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;
    use std::thread;

    use miniz_oxide::deflate::compress_to_vec_zlib;

    use crate::compile::{self, Source, Target};
    use crate::nvrtc;

    const ARCHS: &str = "DPO_KERNELS_ARCHS";
    const LINE_INFO: &str = "DPO_KERNELS_LINE_INFO";
    const DEFAULT_TARGETS: [Target; 5] =
        [Target::Cubin(80), Target::Cubin(90), Target::Cubin(100), Target::Cubin(120), Target::Ptx(80)];

    /// What building with -j says, or else the number of processors.
    const JOBS: &str = "NUM_JOBS";

    /// One above zlib's own default. The most takes the unoptimised code of a build script twice that default's time for 2% of the
    /// size.
    const COMPRESSION: u8 = 7;

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

    /// Compiles every source for every target, and returns the Rust expression of the table of images: of the sources by
    /// name, and of each for the targets in their order.
    fn compile_all() -> Result<String, String> {
        let search =
            nvrtc::search(|name| env::var_os(name), nvrtc::site_packages(env::var_os("VIRTUAL_ENV")));
        let library = search.found.as_ref().ok_or_else(|| search.to_string())?;
        println!("cargo:rerun-if-changed={}", library.display());
        compile::load(library)?;
        let targets = targets()?;
        // NVRTC takes the names of the sources to be relative to here, and puts the result into the line information.
        env::set_current_dir("kernels").map_err(|error| format!("kernels: {error}"))?;
        let (units, headers): (Vec<_>, Vec<_>) =
            compile::sources(Path::new("."))?.into_iter().partition(Source::is_unit);
        let jobs: Vec<Job> =
            units.iter().flat_map(|unit| targets.iter().map(move |&target| Job { unit, target })).collect();
        let entries = run_longest_first(&jobs, |job| compile_one(job, &headers))?;
        let (table, seconds): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        // For `make kernels-report`. Not in the table, so that the same sources build the same program.
        write(&out_dir().join("build_seconds.txt"), seconds.concat().as_bytes())?;
        Ok(format!("&[\n{}]", table.concat()))
    }

    /// One source, for one target.
    struct Job<'a> {
        unit: &'a Source,
        target: Target,
    }

    impl Job<'_> {
        /// `forward.sm_90` and the like.
        fn name(&self) -> String {
            format!("{}.{}", self.unit.name.to_string_lossy().trim_end_matches(".cu"), self.target)
        }

        /// Larger for what probably takes longer: machine code takes more than PTX, and a long source more than a short one.
        fn length(&self) -> (bool, usize) {
            (matches!(self.target, Target::Cubin(_)), self.unit.text.as_bytes().len())
        }
    }

    /// Runs the jobs on as many threads as the build may use, and returns their results in the order of the jobs. The long
    /// ones come first, so that at the end there are only short ones to wait for.
    fn run_longest_first<T: Send>(
        jobs: &[Job],
        run: impl Fn(&Job) -> Result<T, String> + Sync,
    ) -> Result<Vec<T>, String> {
        let mut waiting: Vec<usize> = (0..jobs.len()).collect();
        waiting.sort_by_key(|&job| jobs[job].length());
        let waiting = Mutex::new(waiting);
        let next = || waiting.lock().expect("no compile job panics").pop();
        let allowed = env::var(JOBS).ok().and_then(|jobs| jobs.parse().ok());
        let workers = allowed.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let mut results: Vec<(usize, Result<T, String>)> = thread::scope(|scope| {
            let work = || iter::from_fn(|| next().map(|job| (job, run(&jobs[job])))).collect::<Vec<_>>();
            let workers: Vec<_> = (0..workers.clamp(1, jobs.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a compile job panicked")).collect()
        });
        results.sort_by_key(|&(job, _)| job);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Compiles one source for one target, and returns its entry in the table, and a line that says what it took.
    fn compile_one(job: &Job, headers: &[Source]) -> Result<(String, String), String> {
        let before = processor_seconds();
        // It makes machine code three times as large, which is linked into every program. The PTX is what the tests'
        // interpreter runs, and it names lines.
        let line_info = matches!(job.target, Target::Ptx(_)) || env::var_os(LINE_INFO).is_some();
        let name = job.name();
        let compiled = compile::compile(job.unit, headers, job.target, line_info).map_err(|log| {
            format!("kernels/{} does not compile for {}: {log}", job.unit.name.to_string_lossy(), job.target)
        })?;
        let file = out_dir().join(format!("{name}.zlib"));
        write(&file, &compress_to_vec_zlib(&compiled.image, COMPRESSION))?;
        // The compiler's own times, on the wall's clock, would make each build another.
        let timeless = |line: &&str| !line.contains("Compile time");
        let report: String =
            compiled.report.lines().filter(timeless).map(|line| format!("{line}\n")).collect();
        let kind = if matches!(job.target, Target::Ptx(_)) { "Ptx" } else { "Cubin" };
        let mut entry = String::new();
        writeln!(
            entry,
            "    Image {{ unit: {:?}, kind: Kind::{kind}, capability: {}, report: {:?},\n        \
             unpacked_len: {}, packed: include_bytes!({file:?}) }},",
            name.split('.').next().unwrap_or_default(),
            job.target.capability(),
            report,
            compiled.image.len(),
        )
        .expect("writing to a String");
        let seconds = processor_seconds().zip(before).map(|(after, before)| after - before);
        let line = seconds.map_or_else(String::new, |seconds| format!("{name} {seconds:.2}\n"));
        Ok((entry, line))
    }

    /// Processor time of this thread so far, where the system tells: on Linux, in hundredths of a second.
    fn processor_seconds() -> Option<f64> {
        let stat = fs::read_to_string("/proc/thread-self/stat").ok()?;
        // The name of the process, in parentheses, may hold anything; user and system time are the 12th and 13th after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        Some((ticks()? + ticks()?) / 100.0)
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

    fn out_dir() -> PathBuf {
        env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into()
    }

    fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
        fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
    }
}
