//! What `scripts/install-c.sh` installs, in a folder of its own, and the flags that it says a compiler needs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// Runs the script over the libraries of this build.
pub fn install(variables: &[(&str, &Path)], built: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install-c.sh");
    let mut command = Command::new(script);
    ["PREFIX", "LIBDIR", "DESTDIR"].into_iter().for_each(|variable| _ = command.env_remove(variable));
    command.envs(variables.iter().copied()).arg(built).output().expect("a shell")
}

/// Where cargo puts the libraries of this package: beside the test.
pub fn built() -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    test.parent().expect("in a folder").to_path_buf()
}

/// Libraries and header under a prefix that is there as long as this is.
pub struct Installed {
    prefix: tempfile::TempDir,
}

impl Installed {
    pub fn new() -> Self {
        let prefix = tempfile::tempdir().expect("a folder for temporary files");
        let output = install(&[("PREFIX", prefix.path())], &built());
        assert!(output.status.success(), "{output:?}");
        Installed { prefix }
    }

    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    pub fn libraries(&self) -> PathBuf {
        self.prefix().join("lib")
    }

    /// The flags of `pkg-config --cflags --libs`, or with `--static`, read by hand: there need be no
    /// pkg-config. Where there is one, it says the same.
    pub fn flags(&self, is_static: bool) -> Vec<String> {
        let folder = self.libraries().join("pkgconfig");
        let file = PackageFile::read(&folder.join("dpo-kernels-c.pc"));
        let fields: &[&str] =
            if is_static { &["Cflags", "Libs", "Libs.private"] } else { &["Cflags", "Libs"] };
        let flags: Vec<String> = fields.iter().flat_map(|field| file.words(field)).collect();

        let mut command = Command::new("pkg-config");
        command.args(["--cflags", "--libs"]).args(is_static.then_some("--static")).arg("dpo-kernels-c");
        if let Ok(output) = command.env("PKG_CONFIG_PATH", folder).output() {
            assert!(output.status.success(), "{output:?}");
            let said = String::from_utf8(output.stdout).expect("flags are text");
            assert_eq!(said.split_whitespace().collect::<Vec<_>>(), flags, "pkg-config's flags");
        }
        flags
    }
}

/// A file of pkg-config's: variables, and fields in terms of them.
struct PackageFile {
    variables: HashMap<String, String>,
    fields: HashMap<String, String>,
}

impl PackageFile {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut file = PackageFile { variables: HashMap::new(), fields: HashMap::new() };
        for line in text.lines() {
            if let Some((field, value)) = line.split_once(": ") {
                file.fields.insert(field.to_string(), file.expanded(value));
            } else if let Some((variable, value)) = line.split_once('=') {
                file.variables.insert(variable.to_string(), file.expanded(value));
            }
        }
        file
    }

    /// With each `${variable}` replaced by its value.
    fn expanded(&self, value: &str) -> String {
        let with =
            |text: String, (name, value): (&String, &String)| text.replace(&format!("${{{name}}}"), value);
        self.variables.iter().fold(value.to_string(), with)
    }

    fn words(&self, field: &str) -> Vec<String> {
        self.fields[field].split_whitespace().map(String::from).collect()
    }
}
