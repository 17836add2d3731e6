//! One kernel source through NVRTC, for one architecture.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::path::Path;
use std::ptr;

use cudarc::nvrtc::sys;

/// What an image is compiled to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Machine code for compute capability major·10 + minor.
    Cubin(u32),
    /// PTX for that capability and every later one.
    Ptx(u32),
}

impl Target {
    /// Parses one entry of DPO_KERNELS_ARCHS: `90` or `sm_90` is a CUBIN, `compute_80` is PTX.
    pub fn parse(text: &str) -> Option<Target> {
        if let Some(digits) = text.strip_prefix("compute_") {
            return digits.parse().ok().map(Target::Ptx);
        }
        text.strip_prefix("sm_").unwrap_or(text).parse().ok().map(Target::Cubin)
    }

    pub fn capability(self) -> u32 {
        match self {
            Target::Cubin(capability) | Target::Ptx(capability) => capability,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cubin(capability) => write!(f, "sm_{capability}"),
            Target::Ptx(capability) => write!(f, "compute_{capability}"),
        }
    }
}

/// A source text and the name it is included or reported by.
pub struct Source {
    pub name: CString,
    pub text: CString,
}

impl Source {
    /// Whether it is a unit of its own, which others do not include.
    pub fn is_unit(&self) -> bool {
        self.name.to_bytes().ends_with(b".cu")
    }
}

/// The sources in a folder and the folders in it, by the names under which they include each other.
pub fn sources(folder: &Path) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    collect(folder, "", &mut sources)?;
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sources)
}

fn collect(folder: &Path, prefix: &str, sources: &mut Vec<Source>) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), sources)?;
        } else if matches!(extension, Some("cu" | "cuh" | "h")) {
            let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let nul = |_| format!("{}: contains a NUL byte", path.display());
            let (name, text) = (CString::new(name).map_err(nul)?, CString::new(text).map_err(nul)?);
            sources.push(Source { name, text });
        }
    }
    Ok(())
}

/// A compiled image, and what the compiler said: for a CUBIN its registers, spills and shared memory.
pub struct Compiled {
    pub image: Vec<u8>,
    pub report: String,
}

/// Loads the library, so that cudarc, which looks for it by name, finds it loaded already.
///
/// The builtins library goes first: NVRTC 13 opens it by name, and finds it only if it is loaded.
pub fn load(library: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    let builtins = library.parent().and_then(|folder| std::fs::read_dir(folder).ok()).and_then(|entries| {
        entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            name.starts_with("libnvrtc-builtins.so")
        })
    });
    for path in builtins.iter().map(|path| path.as_path()).chain([library]) {
        // SAFETY: NVIDIA's libraries have no initialisers that depend on this process.
        let loaded = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        // Never closed: cudarc holds on to it for the life of the process.
        std::mem::forget(loaded.map_err(|error| format!("cannot load {}: {error}", path.display()))?);
    }
    Ok(())
}

/// Version of the loaded library.
pub fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two valid places to write to.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// Capabilities that the loaded library can compile for.
pub fn supported() -> Vec<u32> {
    let mut count = 0;
    // SAFETY: the second call writes as many numbers as the first announced.
    unsafe {
        sys::nvrtcGetNumSupportedArchs(&mut count);
        let mut capabilities = vec![0i32; count.max(0) as usize];
        sys::nvrtcGetSupportedArchs(capabilities.as_mut_ptr());
        capabilities.into_iter().map(|capability| capability as u32).collect()
    }
}

/// Compiles `source`, which may include `headers`; `Err` is the compiler's log. With `line_info` the lines of the .cu
/// files are in the image, for faults and profiles.
pub fn compile(
    source: &Source,
    headers: &[Source],
    target: Target,
    line_info: bool,
) -> Result<Compiled, String> {
    let mut options = vec![
        format!("--gpu-architecture={target}"),
        "--std=c++17".to_string(),
        // Multiplications and additions fuse only where the source says fmaf: otherwise each kernel's own optimisation
        // decides, and the same function gives other bits in another kernel.
        "--fmad=false".to_string(),
        "--ptxas-options=-v".to_string(),
    ];
    options.extend(line_info.then(|| "--generate-line-info".to_string()));
    let options: Vec<_> =
        options.into_iter().map(|option| CString::new(option).expect("options have no NUL")).collect();
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let texts: Vec<*const c_char> = headers.iter().map(|header| header.text.as_ptr()).collect();
    let names: Vec<*const c_char> = headers.iter().map(|header| header.name.as_ptr()).collect();
    let mut program = ptr::null_mut();
    // SAFETY: all strings outlive the program, and every buffer has the size that NVRTC asks for.
    unsafe {
        check(sys::nvrtcCreateProgram(
            &mut program,
            source.text.as_ptr(),
            source.name.as_ptr(),
            headers.len() as i32,
            texts.as_ptr(),
            names.as_ptr(),
        ))?;
        let outcome = check(sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr()));
        let report = fetch(program, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
        let report = CStr::from_bytes_until_nul(&report).unwrap_or_default().to_string_lossy().into_owned();
        outcome.map_err(|error| format!("{error}\n{report}"))?;
        let image = match target {
            Target::Cubin(_) => fetch(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?,
            Target::Ptx(_) => fetch(program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?,
        };
        check(sys::nvrtcDestroyProgram(&mut program))?;
        Ok(Compiled { image, report })
    }
}

/// The pattern of all of NVRTC's getters: ask for the size, then for the bytes.
unsafe fn fetch(
    program: sys::nvrtcProgram,
    size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    bytes: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>, String> {
    let mut length = 0;
    // SAFETY: the caller's program is valid, and the buffer has the announced length.
    unsafe {
        check(size(program, &mut length))?;
        let mut buffer = vec![0u8; length];
        check(bytes(program, buffer.as_mut_ptr().cast()))?;
        Ok(buffer)
    }
}

fn check(result: sys::nvrtcResult) -> Result<(), String> {
    match result {
        sys::nvrtcResult::NVRTC_SUCCESS => Ok(()),
        error => Err(format!("{error:?}")),
    }
}
