//! Planted faults: each kernel in `faults/` must be found out, with the right kind at the right line, and its
//! repaired twin (`-DFIXED`) must pass, in every schedule.

mod common;

use ptx_vm::{Fault, Launch, Module, Options, Placement, Vm};
use std::collections::HashMap;
use std::path::Path;

/// A source with what its first line says: `// kind=OutOfBounds grid=16 block=64`.
struct Case {
    name: String,
    source: String,
    settings: HashMap<String, String>,
}

impl Case {
    fn number(&self, key: &str, default: u32) -> u32 {
        self.settings.get(key).map_or(default, |value| value.parse().expect("a number"))
    }

    /// The line that the fault must name; none where the launch itself is at fault.
    fn line(&self) -> Option<u32> {
        self.source.lines().position(|line| line.contains("// FAULT")).map(|index| index as u32 + 1)
    }

    fn module(&self, fixed: bool) -> Module {
        let arch = format!("--gpu-architecture=compute_{}", self.number("arch", 80));
        let mut options = vec![arch.as_str()];
        options.extend(fixed.then_some("-DFIXED"));
        let ptx = common::compile(&format!("{}.cu", self.name), &self.source, &options);
        Module::parse(&ptx).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn run(&self, module: &Module, schedule_seed: u64) -> Result<(), Box<Fault>> {
        let mut vm = Vm::new(Options { schedule_seed, step_budget: 1 << 16, ..Options::default() });
        let floats = |count: u32| -> Vec<u8> { (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect() };
        let memory = &mut vm.memory;
        let input = memory.alloc(&floats(1000), Placement::named("in").read_only());
        let out = memory.alloc_uninit(4096, Placement::named("out"));
        let scratch = memory.alloc(&floats(1024), Placement::named("scratch"));
        let counter = memory.alloc(&[0; 4], Placement::named("counter"));
        let freed = memory.alloc(&floats(1000), Placement::named("freed"));
        memory.free(freed).expect("it is live");
        let padded = memory.alloc_uninit(8 * 16 * 4, Placement::named("padded"));
        for row in 0..8 {
            memory.write(padded + row * 64, &floats(10)).expect("in bounds");
        }
        let params: Vec<u8> = [input, out, scratch, counter, freed, padded, 1000]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        let launch = Launch::new("run", self.number("grid", 1), self.number("block", 32), &params)
            .shared(self.number("shared", 0) as usize)
            .cluster(self.number("cluster", 1));
        vm.launch(module, &launch).map(drop)
    }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults");
    let mut paths: Vec<_> = folder
        .read_dir()
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let case = |path: &std::path::PathBuf| {
        let source = std::fs::read_to_string(path).expect("readable");
        let header = source.lines().next().expect("a first line").trim_start_matches('/');
        let settings = header
            .split_whitespace()
            .map(|pair| pair.split_once('=').expect("key=value"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        Case { name, source, settings }
    };
    paths.iter().map(case).collect()
}

#[test]
fn every_planted_fault_is_found_where_it_is() {
    let mut wrong = Vec::new();
    for case in cases() {
        let module = case.module(false);
        for seed in 0..4 {
            match case.run(&module, seed) {
                Ok(()) => wrong.push(format!("{} (seed {seed}): not found", case.name)),
                Err(fault) => {
                    let line = fault.source.as_ref().map(|(_, line)| *line);
                    let kind = format!("{:?}", fault.kind);
                    if (&kind, line) != (&case.settings["kind"], case.line()) {
                        wrong.push(format!("{} (seed {seed}), line {:?}: {fault}", case.name, case.line()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_repaired_twin_passes() {
    let mut wrong = Vec::new();
    for case in cases() {
        let module = case.module(true);
        for seed in 0..4 {
            if let Err(fault) = case.run(&module, seed) {
                wrong.push(format!("{} (seed {seed}): {fault}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
