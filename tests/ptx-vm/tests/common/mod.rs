//! CUDA source to PTX through NVRTC, found where the build of the kernels finds it.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where a toolkit or a wheel keeps the library.
const FOLDERS: [&str; 6] =
    ["", "lib64", "targets/x86_64-linux/lib", "lib", "nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib"];

fn find() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut roots = Vec::new();
    match variable("DPO_NVRTC") {
        Some(given) if given.is_file() => return Some(given),
        Some(given) => roots.push(given),
        None => {
            roots.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable));
            roots.push("/usr/local/cuda".into());
            roots.extend(variable("CONDA_PREFIX"));
            roots.extend(site_packages());
        }
    }
    roots
        .iter()
        .flat_map(|root| FOLDERS.map(|folder| root.join(folder)))
        .find_map(|folder| library(&folder, "libnvrtc.so"))
}

/// The site-packages folders of the active virtual environment and of `python3`.
fn site_packages() -> Vec<PathBuf> {
    const PRINT: &str = "import site, sysconfig\n\
        print(sysconfig.get_paths()['purelib'])\nprint(site.getusersitepackages())";
    let active = std::env::var_os("VIRTUAL_ENV").map(|root| Path::new(&root).join("bin/python3"));
    let output = Command::new(active.unwrap_or("python3".into())).args(["-c", PRINT]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

fn library(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).min()
}

fn nvrtc() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path =
            find().expect("no NVRTC: pip install nvidia-cuda-nvrtc-cu12==12.9.86, or point DPO_NVRTC at it");
        // SAFETY: NVIDIA's libraries have no initialisers that depend on this process. NVRTC 13 finds its
        // builtins only where they are loaded already.
        let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        if let Some(builtins) = path.parent().and_then(|folder| library(folder, "libnvrtc-builtins.so")) {
            std::mem::forget(open(&builtins).expect("the builtins library loads"));
        }
        open(&path).expect("the NVRTC library loads")
    })
}

type Program = *mut c_void;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;

fn text(program: Program, size: &[u8], get: &[u8]) -> String {
    // SAFETY: the signatures are those of nvrtc.h, and the buffer has the size that NVRTC asks for.
    unsafe {
        let mut len = 0;
        nvrtc().get::<Size>(size).expect("in every NVRTC")(program, &mut len);
        let mut bytes = vec![0u8; len];
        nvrtc().get::<Text>(get).expect("in every NVRTC")(program, bytes.as_mut_ptr().cast());
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
    }
}

/// Compiles CUDA source to PTX with line information; `name` is the file that findings will name.
pub fn compile(name: &str, source: &str, options: &[&str]) -> String {
    let c_string = |text: &str| CString::new(text).expect("no NUL in a source");
    let options = options.iter().copied().chain(["--generate-line-info", "--std=c++17"]);
    let options: Vec<CString> = options.map(c_string).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
    let mut program: Program = std::ptr::null_mut();
    let (source, file) = (c_string(source), c_string(name));
    let none = std::ptr::null();
    // SAFETY: the signatures are those of nvrtc.h; all pointers live until the calls return.
    let status = unsafe {
        let create = nvrtc().get::<Create>(b"nvrtcCreateProgram").expect("in every NVRTC");
        create(&mut program, source.as_ptr(), file.as_ptr(), 0, none, none);
        let compile = nvrtc().get::<Compile>(b"nvrtcCompileProgram").expect("in every NVRTC");
        compile(program, pointers.len() as c_int, pointers.as_ptr())
    };
    assert_eq!(status, 0, "{name}: {}", text(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog"));
    text(program, b"nvrtcGetPTXSize", b"nvrtcGetPTX")
}
