//! A PTX module, parsed and decoded.

use crate::decode::decode;
use crate::parse::{Storage, Variable, parse};
use crate::program::Program;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a PTX text cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The text is not PTX, or names something that is not there.
    #[error("PTX line {line}: {detail}")]
    Syntax {
        /// Line in the PTX text.
        line: u32,
        /// What is wrong.
        detail: String,
    },
    /// The interpreter does not know the instruction, or not in this form.
    #[error("PTX line {line}: `{instruction}` is not supported: {detail}")]
    Unsupported {
        /// Line in the PTX text.
        line: u32,
        /// The opcode.
        instruction: String,
        /// What about it is unknown.
        detail: String,
    },
}

impl ModuleError {
    pub(crate) fn syntax(line: u32, detail: impl Into<String>) -> Self {
        ModuleError::Syntax { line, detail: detail.into() }
    }
}

/// A module whose kernels are ready to launch.
pub struct Module {
    /// Tells modules apart in a machine that holds the variables of several.
    pub(crate) id: u64,
    /// The number of the architecture after `.target`, such as 80.
    pub(crate) target: u32,
    pub(crate) files: HashMap<u32, String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) kernels: BTreeMap<String, Program>,
}

impl Module {
    /// Parses PTX text and decodes all of its kernels.
    ///
    /// An instruction that the interpreter does not know is an error here, also in a kernel that is never
    /// launched.
    pub fn parse(ptx: &str) -> Result<Self, ModuleError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let ast = parse(ptx)?;
        let digits = ast.target.trim_start_matches(|c: char| !c.is_ascii_digit());
        let digits = digits.trim_end_matches(|c: char| !c.is_ascii_digit());
        let Ok(target) = digits.parse() else {
            return Err(ModuleError::syntax(1, format!("unknown target `{}`", ast.target)));
        };
        let mut kernels = BTreeMap::new();
        for function in ast.functions.iter().filter(|function| function.is_entry) {
            kernels.insert(function.name.clone(), decode(&ast, function)?);
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Module { id, target, files: ast.files, variables: ast.variables, kernels })
    }

    /// The names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// The number of the architecture that the module is for, such as 80.
    pub fn target(&self) -> u32 {
        self.target
    }
}

impl Variable {
    /// Whether kernels may not write to it.
    pub(crate) fn is_constant(&self) -> bool {
        self.storage == Storage::Const
    }
}
