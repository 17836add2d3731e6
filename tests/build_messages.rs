//! The search for NVRTC that build.rs does, and what it says when there is none.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../build/nvrtc.rs"]
mod nvrtc;

use nvrtc::{Search, search};

/// A folder of its own for each test, under the one that cargo gives.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build_messages").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn library(path: PathBuf) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    path
}

fn search_with(variables: &[(&str, &Path)], site_packages: Vec<PathBuf>) -> Search {
    let value =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, path)| OsString::from(path));
    search(value, site_packages)
}

#[test]
fn toolkit_then_conda_then_wheels_older_first() {
    let root = folder("order");
    let home = library(root.join("home/lib64/libnvrtc.so.12"));
    let path = library(root.join("path/targets/x86_64-linux/lib/libnvrtc.so.12"));
    let conda = library(root.join("conda/lib/libnvrtc.so.13"));
    let new_wheel = library(root.join("site/nvidia/cu13/lib/libnvrtc.so.13"));
    let old_wheel = library(root.join("site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
    let variables = [
        ("CUDA_HOME", root.join("home")),
        ("CUDA_PATH", root.join("path")),
        ("CONDA_PREFIX", root.join("conda")),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let site = vec![root.join("site")];
    for (skip, expected) in [(0, &home), (1, &path)] {
        assert_eq!(search_with(&variables[skip..], site.clone()).found.as_ref(), Some(expected));
    }
    if !Path::new("/usr/local/cuda").exists() {
        assert_eq!(search_with(&variables[2..], site.clone()).found, Some(conda));
        assert_eq!(search_with(&[], site.clone()).found, Some(old_wheel.clone()));
        fs::remove_file(old_wheel).unwrap();
        assert_eq!(search_with(&[], site).found, Some(new_wheel));
    }
}

#[test]
fn the_override_is_final() {
    let root = folder("override");
    let file = library(root.join("anywhere/libnvrtc.so.12"));
    library(root.join("home/lib64/libnvrtc.so.12"));
    let home = root.join("home");
    let with = |given: &Path| search_with(&[(nvrtc::OVERRIDE, given), ("CUDA_HOME", &home)], vec![]);
    assert_eq!(with(&file).found, Some(file.clone()));
    assert_eq!(with(&root.join("anywhere")).found, Some(file));
    let wheel = library(root.join("target/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
    assert_eq!(with(&root.join("target")).found, Some(wheel));
    // What was named is not there: nothing else is taken instead.
    assert_eq!(with(&root.join("missing")).found, None);
}

#[test]
fn versioned_names_come_before_the_bare_link() {
    let root = folder("names");
    library(root.join("libnvrtc.so"));
    library(root.join("libnvrtc-builtins.so.12.9"));
    library(root.join("libnvrtc.so.13"));
    let expected = library(root.join("libnvrtc.so.12"));
    assert_eq!(search_with(&[(nvrtc::OVERRIDE, &root)], vec![]).found, Some(expected));
}

#[test]
fn the_message_lists_places_and_remedies() {
    let root = folder("message");
    let home = root.join("home");
    let found = search_with(&[("CUDA_HOME", &home), ("CONDA_PREFIX", &root)], vec![root.join("site")]);
    if found.found.is_some() {
        return; // this machine has a toolkit in /usr/local/cuda
    }
    let message = found.to_string();
    let places = [
        home.join("lib64"),
        home.join("targets/x86_64-linux/lib"),
        PathBuf::from("/usr/local/cuda/lib64"),
        root.join("lib"),
        root.join("site/nvidia/cuda_nvrtc/lib"),
        root.join("site/nvidia/cu13/lib"),
    ];
    for place in places {
        assert!(
            message.contains(&*place.to_string_lossy()),
            "{} is missing from:\n{message}",
            place.display()
        );
    }
    assert!(message.contains("pip install nvidia-cuda-nvrtc-cu12==12.9.86"), "{message}");
    assert!(message.contains("default-features = false"), "{message}");
    assert!(message.contains(nvrtc::OVERRIDE), "{message}");
}

/// The build script's own environment.
#[test]
fn site_packages_of_python_are_searched() {
    let packages = nvrtc::site_packages(None);
    assert!(packages.iter().all(|path| path.is_absolute()), "{packages:?}");
    assert_eq!(nvrtc::VARIABLES[0], nvrtc::OVERRIDE);
}
