//! Where NVRTC is looked for, and what to say when it is not found.
//!
//! A module of the build script; the test `build_messages` includes it too.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a library itself, or the folder that holds it. Comes before everything else.
pub const OVERRIDE: &str = "DPO_NVRTC";

/// Every environment variable the search depends on.
pub const VARIABLES: [&str; 5] = [OVERRIDE, "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "VIRTUAL_ENV"];

/// Where the parts of a toolkit, of conda and of NVIDIA's wheels keep the library. Of two wheels the older comes
/// first: a driver refuses PTX that is newer than itself.
const TOOLKIT_FOLDERS: [&str; 3] = ["lib64", "targets/x86_64-linux/lib", "lib"];
const WHEEL_FOLDERS: [&str; 2] = ["nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib"];

/// The outcome of a search: the library, or every place where it was not.
pub struct Search {
    pub found: Option<PathBuf>,
    pub searched: Vec<PathBuf>,
}

/// Searches the override, toolkits, conda and Python's site-packages, in this order.
pub fn search(variable: impl Fn(&str) -> Option<OsString>, site_packages: Vec<PathBuf>) -> Search {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut folders = Vec::new();
    if let Some(given) = path(OVERRIDE) {
        // Whoever names a place means that one: no other is tried.
        if given.is_file() {
            return Search { found: Some(given), searched: vec![] };
        }
        folders.push(given.clone());
        folders.extend(WHEEL_FOLDERS.map(|folder| given.join(folder)));
    } else {
        let toolkits = [path("CUDA_HOME"), path("CUDA_PATH"), Some(PathBuf::from("/usr/local/cuda"))];
        for root in toolkits.into_iter().flatten() {
            folders.extend(TOOLKIT_FOLDERS.map(|folder| root.join(folder)));
        }
        folders.extend(path("CONDA_PREFIX").map(|root| root.join("lib")));
        for site in site_packages {
            folders.extend(WHEEL_FOLDERS.map(|folder| site.join(folder)));
        }
    }
    let found = folders.iter().find_map(|folder| library_in(folder));
    Search { found, searched: folders }
}

/// `libnvrtc.so.12` and the like; the lowest version of several.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut libraries: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
            name == "libnvrtc.so" || name.starts_with("libnvrtc.so.")
        })
        .collect();
    libraries.sort();
    // The bare name is a link to whichever version is newest.
    let bare = libraries.iter().position(|path| path.ends_with("libnvrtc.so"));
    if let Some(at) = bare {
        let link = libraries.remove(at);
        libraries.push(link);
    }
    libraries.into_iter().next()
}

/// The site-packages folders of the active virtual environment and of `python3`.
pub fn site_packages(virtual_env: Option<OsString>) -> Vec<PathBuf> {
    const PRINT: &str = "import site, sysconfig\n\
        for p in [sysconfig.get_paths()['purelib'], site.getusersitepackages()]: print(p)";
    let pythons = virtual_env.map(|root| Path::new(&root).join("bin/python3")).into_iter();
    pythons
        .chain([PathBuf::from("python3")])
        .filter_map(|python| Command::new(python).args(["-c", PRINT]).output().ok())
        .flat_map(|output| {
            String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect::<Vec<_>>()
        })
        .collect()
}

impl fmt::Display for Search {
    /// The message of a build that cannot go on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "NVRTC (libnvrtc.so), which compiles the CUDA kernels of dpo-kernels, was not found. Searched:"
        )?;
        for place in &self.searched {
            writeln!(f, "  {}", place.display())?;
        }
        writeln!(f, "Either install it (no GPU, no driver and no toolkit are needed):")?;
        writeln!(f, "  pip install nvidia-cuda-nvrtc-cu12==12.9.86")?;
        writeln!(f, "  (or set {OVERRIDE} to the library, its folder, or the folder given to pip --target)")?;
        writeln!(f, "or build the CPU crate, with no CUDA at all:")?;
        write!(f, "  dpo-kernels = {{ version = \"...\", default-features = false }}")
    }
}
