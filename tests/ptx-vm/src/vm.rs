//! The machine: device memory and launches.

use crate::clocks::Publications;
use crate::exec::{self, Session, Shape, Turns};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Memory, Placement};
use crate::module::Module;
use crate::parse::Storage;
use crate::program::Program;
use crate::stats::Stats;
use std::collections::HashMap;
use std::sync::Mutex;

/// Static shared memory that any kernel may have.
const STATIC_SHARED: usize = 48 << 10;
/// Blocks in a cluster that every device with clusters allows.
const CLUSTER: u32 = 8;

/// A launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Blocks in a cluster along x; 1 without clusters. A kernel that requires a size has it anyway.
    pub cluster: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: usize,
    /// The parameters as they lie in memory, each at its alignment; for a kernel of one struct, its bytes.
    pub params: &'a [u8],
}

impl<'a> Launch<'a> {
    /// A one-dimensional launch without dynamic shared memory.
    pub fn new(kernel: &'a str, grid: u32, block: u32, params: &'a [u8]) -> Self {
        Launch { kernel, grid: [grid, 1, 1], block: [block, 1, 1], cluster: 1, shared_bytes: 0, params }
    }

    /// With that much dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Self {
        Launch { shared_bytes: bytes, ..self }
    }

    /// With clusters of that many blocks.
    pub fn cluster(self, blocks: u32) -> Self {
        Launch { cluster: blocks, ..self }
    }
}

/// How launches run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Draws the order of blocks and warps; 0 is the natural order. A right kernel's results do not depend
    /// on it.
    pub schedule_seed: u64,
    /// Draws the errors of the approximate instructions; 0 leaves them out.
    pub approx_seed: u32,
    /// Instructions that a warp may execute in a launch.
    pub step_budget: u64,
    /// Threads of the host to use; the results do not depend on it.
    pub threads: usize,
    /// The architecture whose limits hold, such as 90; by default the module's target.
    pub arch: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options { schedule_seed: 0, approx_seed: 0, step_budget: 1 << 28, threads, arch: None }
    }
}

/// A machine.
#[derive(Default)]
pub struct Vm {
    /// Device memory.
    pub memory: Memory,
    /// How launches run.
    pub options: Options,
    /// By module, the addresses of its variables.
    variables: HashMap<u64, Vec<u64>>,
    launches: u64,
}

impl Vm {
    /// A machine with these options and empty memory.
    pub fn new(options: Options) -> Self {
        Vm { options, ..Vm::default() }
    }

    /// Runs a launch to its end, or to the first finding: that of the earliest block in the order of the
    /// schedule.
    pub fn launch(&mut self, module: &Module, launch: &Launch<'_>) -> Result<Stats, Box<Fault>> {
        let fault = |kind, detail| {
            let kernel = launch.kernel.to_owned();
            Box::new(Fault { kind, kernel, thread: None, ptx_line: 0, source: None, detail })
        };
        let Some(program) = module.kernels.get(launch.kernel) else {
            return Err(fault(FaultKind::BadLaunch, "the module has no such kernel".to_owned()));
        };
        let arch = self.options.arch.unwrap_or(module.target);
        let cluster = program.cluster.unwrap_or(launch.cluster);
        check(program, launch, cluster, arch).map_err(|(kind, detail)| fault(kind, detail))?;
        let shape =
            Shape { grid: launch.grid, block: launch.block, cluster, dynamic_shared: launch.shared_bytes };
        self.load_variables(module);
        self.launches += 1;
        let placement = Placement::named("kernel parameters").read_only();
        let params = self.memory.alloc(launch.params, placement);
        let session = Session {
            program,
            files: &module.files,
            memory: &self.memory,
            shape,
            variables: &self.variables[&module.id],
            params,
            epoch: self.launches,
            schedule_seed: self.options.schedule_seed,
            approx_seed: self.options.approx_seed,
            step_budget: self.options.step_budget,
            publications: Mutex::new(Publications::default()),
            turns: Turns::new(shape.units(), self.options.schedule_seed),
        };
        let result = exec::run(&session, self.options.threads);
        self.memory.pop();
        let mut stats = Stats::default();
        stats.kernels.insert(launch.kernel.to_owned(), result?);
        Ok(stats)
    }

    /// The address of a module's `__device__` or `__constant__` variable, by its name in the PTX.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Option<u64> {
        self.load_variables(module);
        let index = module.variables.iter().position(|variable| variable.name == name)?;
        Some(self.variables[&module.id][index]).filter(|&address| address != 0)
    }

    /// Allocates the module's variables, the first time.
    fn load_variables(&mut self, module: &Module) {
        let memory = &mut self.memory;
        self.variables.entry(module.id).or_insert_with(|| {
            let place = |variable: &crate::parse::Variable| {
                if !matches!(variable.storage, Storage::Const | Storage::Global) {
                    return 0;
                }
                let mut bytes = variable.init.clone().unwrap_or_default();
                bytes.resize(variable.size.unwrap_or(0).max(bytes.len()), 0);
                let read_only = variable.is_constant();
                memory.alloc(&bytes, Placement { offset: 0, read_only, name: variable.name.clone() })
            };
            module.variables.iter().map(place).collect()
        });
    }
}

/// What a launch may not be.
fn check(program: &Program, launch: &Launch<'_>, cluster: u32, arch: u32) -> Result<(), (FaultKind, String)> {
    let bad = |detail: String| Err((FaultKind::BadLaunch, detail));
    let (grid, block) = (launch.grid, launch.block);
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1].max(grid[2]) > 65535 {
        return bad(format!("a grid of {grid:?} blocks"));
    }
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    let most = u64::from(program.max_threads.unwrap_or(1024).min(1024));
    if threads == 0 || threads > most || block[2] > 64 {
        return bad(format!("a block of {block:?} threads, where {most} are the most"));
    }
    if cluster == 0 || cluster > CLUSTER || grid[0] % cluster != 0 || (cluster > 1 && arch < 90) {
        return bad(format!("clusters of {cluster} blocks in a grid of {grid:?} on sm_{arch}"));
    }
    if launch.params.len() != program.param_bytes {
        let (given, wanted) = (launch.params.len(), program.param_bytes);
        return bad(format!("{given} bytes of parameters, where the kernel takes {wanted}"));
    }
    let limit = shared_limit(arch);
    let (fixed, dynamic) = (program.static_shared, launch.shared_bytes);
    if fixed > STATIC_SHARED || fixed + dynamic > limit {
        let detail = format!("{fixed} bytes static and {dynamic} dynamic, where sm_{arch} has {limit}");
        return Err((FaultKind::SharedMemory, detail));
    }
    Ok(())
}

/// Bytes of shared memory that a block may have.
fn shared_limit(arch: u32) -> usize {
    let kibibytes = match arch {
        70 | 72 => 96,
        75 => 64,
        80 | 87 => 163,
        86 | 89 | 120.. => 99,
        90..120 => 227,
        _ => 48,
    };
    kibibytes << 10
}
