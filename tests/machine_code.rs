//! The machine code, from the embedded CUBINs: what bounds the speed of a kernel that no GPU has timed yet.
//!
//! For every kernel, dtype and architecture: registers, spills, shared memory and the occupancy that follows (from the
//! compiler's report), and of each main loop its 16-byte loads and stores and its instructions per element (from the
//! disassembly by nvdisasm, which DPO_NVDISASM names and `make test` provides). `make kernels-report` prints the table.
#![cfg(feature = "cuda")]

#[path = "common/devices.rs"]
#[allow(dead_code)]
mod devices;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use dpo_kernels::cuda::images::{IMAGES, Image, Kind};
use dpo_kernels::cuda::kernel::Kernel;
use dpo_kernels::cuda::params::{DPO_FACTORED_THREADS, DPO_HEAD_THREADS, DPO_PAIR_LOSS_THREADS};
use dpo_kernels::cuda::plan::Device;
use dpo_kernels::cuda::tuning::{FACTORED_STATIC_SHARED, FactoredPartition, RowPass, TABLE};
use dpo_kernels::{DType, MetricsLevel};

/// What a multiprocessor has.
struct Multiprocessor {
    threads: u32,
    blocks: u32,
    shared_bytes: u32,
}

const REGISTERS: u32 = 65_536;

fn multiprocessor(capability: u32) -> Multiprocessor {
    match capability {
        80 => Multiprocessor { threads: 2048, blocks: 32, shared_bytes: 164 << 10 },
        90 | 100 => Multiprocessor { threads: 2048, blocks: 32, shared_bytes: 228 << 10 },
        120 => Multiprocessor { threads: 1536, blocks: 24, shared_bytes: 100 << 10 },
        other => panic!("no figures for sm_{other}"),
    }
}

/// Threads of the largest block that a kernel is launched with.
fn block(kernel: Kernel) -> u32 {
    let pass = match kernel {
        Kernel::Forward { .. } => RowPass::Forward,
        Kernel::Backward { .. } => RowPass::Backward,
        Kernel::Factored { .. } => return DPO_FACTORED_THREADS,
        Kernel::PairLoss => return DPO_PAIR_LOSS_THREADS,
        _ => return DPO_HEAD_THREADS,
    };
    let threads = TABLE.iter().filter(|entry| entry.pass == pass).map(|entry| entry.threads);
    threads.max().expect("each pass has entries")
}

/// Dynamic shared memory of a factored forward with two blocks to a multiprocessor at most: the largest for any row that
/// clusters, or L2, leave that much room.
fn most_kept(capability: u32) -> u32 {
    let fits = |device: &&Device| device.capability.0 * 10 + device.capability.1 == capability;
    let device = devices::ALL.iter().find(fits).expect("there is a device of every architecture");
    let kept = |vocab| FactoredPartition::of(device, DType::BF16, vocab).shared_bytes();
    (1..=256)
        .map(|thousands| kept(1024 * thousands))
        .filter(|&bytes| bytes <= device.shared_bytes_per_block / 2)
        .max()
        .expect("short rows fit")
}

/// What ptxas said of one kernel.
#[derive(Debug, Clone, Copy)]
struct Resources {
    registers: u32,
    /// Static.
    shared_bytes: u32,
    spilled_bytes: u32,
}

impl Resources {
    /// Blocks of `block` threads that fit on a multiprocessor, each with `dynamic_bytes` of shared memory on top of its own.
    fn blocks(&self, capability: u32, block: u32, dynamic_bytes: u32) -> u32 {
        let sm = multiprocessor(capability);
        // Registers are given to warps in units of 256, shared memory to blocks with 1 KiB on top.
        let by_registers = REGISTERS / ((self.registers * 32).next_multiple_of(256) * block / 32);
        let by_shared = sm.shared_bytes / (self.shared_bytes + dynamic_bytes + 1024);
        by_registers.min(by_shared).min(sm.blocks).min(sm.threads / block)
    }
}

/// The number that ends right before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = line[..line.find(unit)?].trim_end();
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn resources(image: &Image) -> BTreeMap<String, Resources> {
    let mut kernels = BTreeMap::new();
    let mut current = None;
    let mut spilled = 0;
    for line in image.report.lines() {
        if line.contains("Compiling entry function") {
            current = line.split('\'').nth(1).map(str::to_owned);
        } else if line.contains("bytes spill stores") {
            let of = |unit| number_before(line, unit).unwrap_or(0);
            spilled = of(" bytes stack frame") + of(" bytes spill stores") + of(" bytes spill loads");
        } else if let (Some(registers), Some(name)) = (number_before(line, " registers"), &current) {
            let shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
            kernels.insert(name.clone(), Resources { registers, shared_bytes, spilled_bytes: spilled });
        }
    }
    kernels
}

/// An innermost loop over 16-byte vectors of logits.
#[derive(Debug, Clone, Copy)]
struct MainLoop {
    instructions: usize,
    /// From device memory, or in the factored forward from shared memory.
    loads: usize,
    stores: usize,
    /// Global accesses of any other width.
    narrow: usize,
    /// Accesses to what was spilled: there should be none.
    local: usize,
    elements: usize,
}

impl MainLoop {
    /// Two loads for a vector: the row starts off a 16-byte boundary.
    fn straddling(&self, width: usize) -> bool {
        self.loads * width > self.elements
    }

    fn per_element(&self) -> f64 {
        self.instructions as f64 / self.elements as f64
    }
}

/// The innermost loops of each function of a disassembly that load vectors and exponentiate them.
fn main_loops(disassembly: &str) -> BTreeMap<String, Vec<MainLoop>> {
    let mut functions = BTreeMap::new();
    for section in disassembly.split("\n.text.").skip(1) {
        let name = section.split([':', '\n']).next().unwrap_or("").to_owned();
        let mut labels = BTreeMap::new();
        let mut code: Vec<&str> = Vec::new();
        for line in section.lines().map(str::trim) {
            if let Some(label) = line.strip_prefix(".L_x_").and_then(|rest| rest.strip_suffix(':')) {
                labels.insert(label, code.len());
            } else if let Some((_, instruction)) =
                line.strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
                && instruction.contains(';')
            {
                code.push(instruction.trim());
            }
        }
        let back_edges: Vec<(usize, usize)> = code
            .iter()
            .enumerate()
            .filter(|(_, instruction)| instruction.contains("BRA"))
            .filter_map(|(end, instruction)| {
                let label = instruction.split(".L_x_").nth(1)?.split(')').next()?;
                labels.get(label).filter(|&&start| start <= end).map(|&start| (start, end))
            })
            .collect();
        let loops = back_edges.iter().filter(|&&(start, end)| {
            !back_edges.iter().any(|&(s, e)| (s, e) != (start, end) && start <= s && e <= end)
        });
        let count = |body: &[&str], f: &dyn Fn(&str) -> bool| body.iter().filter(|i| f(i)).count();
        // One exponential an element, two where it is capped, and in the forward as many a round for the largest logit,
        // which rescale the sum.
        let exponentials = if name.contains("softcap") { 2 } else { 1 };
        let keeps = name.contains("factored");
        let measured = loops.map(|&(start, end)| {
            let body = &code[start..=end];
            let global_loads = count(body, &|i| i.contains("LDG") && i.contains(".128"));
            // What the factored forward kept of a row comes from shared memory.
            let kept_loads = count(body, &|i| keeps && i.contains("LDS") && i.contains(".128"));
            let loads = global_loads + kept_loads;
            let stores = count(body, &|i| i.contains("STG") && i.contains(".128"));
            let global = count(body, &|i| i.contains("LDG") || i.contains("STG"));
            let elements = (count(body, &|i| i.contains("MUFU.EX2")) / exponentials) & !1;
            MainLoop {
                instructions: body.len(),
                loads,
                stores,
                narrow: global - global_loads - stores,
                local: count(body, &|i| i.contains("LDL") || i.contains("STL")),
                elements,
            }
        });
        functions.insert(name, measured.filter(|l| l.loads > 0 && l.elements > 0).collect());
    }
    functions
}

/// `// Budget: 8 aligned, 14 straddling` in the kernel's source: instructions per element of its main loops; where it has
/// more to do for an element, `// Budget of softcap: ...` and the like.
fn budget(kernel: Kernel) -> Option<(f64, f64)> {
    let more = match kernel {
        Kernel::Forward { metrics: MetricsLevel::Entropy, softcap: false, .. }
        | Kernel::Backward { entropy: true, softcap: false, .. } => " of entropy",
        Kernel::Forward { metrics: MetricsLevel::Entropy, softcap: true, .. }
        | Kernel::Backward { entropy: true, softcap: true, .. } => " of entropy and softcap",
        Kernel::Forward { metrics: MetricsLevel::All, softcap: false, .. } => " of metrics",
        Kernel::Forward { metrics: MetricsLevel::All, softcap: true, .. } => " of metrics and softcap",
        Kernel::Forward { softcap: true, .. }
        | Kernel::Backward { softcap: true, .. }
        | Kernel::Factored { softcap: true, .. } => " of softcap",
        _ => "",
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(format!("{}.cu", kernel.unit()));
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("// Budget{more}: "))?;
    let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn disassemble(nvdisasm: &Path, image: &Image) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}.{}.cubin", image.unit, image.target()));
    std::fs::write(&file, &*image.unpack().unwrap()).unwrap();
    let output = Command::new(nvdisasm).arg("-c").arg(&file).output().unwrap();
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    format!("\n{}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn kernels_fit_their_budgets() {
    let nvdisasm = std::env::var_os("DPO_NVDISASM");
    if nvdisasm.is_none() {
        writeln!(std::io::stdout(), "machine code: loops not checked: DPO_NVDISASM names no nvdisasm")
            .unwrap();
    }
    let mut table = format!(
        "{:<34} {:<7} {:>5} {:>4} {:>6} {:>7} {:>5}  main loops: instructions per element (16-byte loads + stores)\n",
        "kernel", "target", "block", "regs", "shared", "spilled", "occ."
    );
    for image in IMAGES.iter().filter(|image| image.kind == Kind::Cubin) {
        let resources = resources(image);
        let loops = nvdisasm.as_ref().map(|path| main_loops(&disassemble(Path::new(path), image)));
        for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.unit() == image.unit) {
            let (target, name) = (image.target(), kernel.to_string());
            let found = resources[&name];
            let block = block(kernel);
            let dynamic_bytes = if image.unit == "factored" {
                assert!(found.shared_bytes <= FACTORED_STATIC_SHARED, "{kernel} for {target}: {found:?}");
                most_kept(image.capability)
            } else {
                0
            };
            let blocks = found.blocks(image.capability, block, dynamic_bytes);
            let occupancy = f64::from(blocks * block) / f64::from(multiprocessor(image.capability).threads);
            write!(
                table,
                "{name:<34} {target:<7} {block:>5} {:>4} {:>6} {:>7} {:>4.0}% ",
                found.registers,
                found.shared_bytes,
                found.spilled_bytes,
                100.0 * occupancy
            )
            .unwrap();
            // Kernels that have more to do for each byte have more registers to do it with. The factored forward's loads in
            // flight are counted in blocks: see kernels/factored.cu.
            let plain = matches!(kernel, Kernel::Forward { metrics: MetricsLevel::None, softcap: false, .. });
            let more_to_do = matches!(kernel, Kernel::Forward { .. }) && !plain;
            let least = if more_to_do { 0.375 } else { 0.5 };
            let enough = if image.unit == "factored" { blocks >= 2 } else { occupancy >= least };
            assert!(enough, "{kernel} for {target}: {found:?} fills {occupancy} of a multiprocessor");
            if let (Some(loops), Some(budget)) = (&loops, budget(kernel)) {
                check_loops(&name, &target, &loops[&name], budget, &mut table);
            }
            table.push('\n');
        }
    }
    writeln!(table, "{}", what_the_images_cost()).unwrap();
    if std::env::var_os("DPO_KERNELS_REPORT").is_some() {
        write!(std::io::stdout(), "{table}").unwrap();
    }
}

/// Of all embedded images, PTX included: the processor time that build.rs took for them, and their size in a program.
fn what_the_images_cost() -> String {
    let lines = include_str!(concat!(env!("OUT_DIR"), "/build_seconds.txt"));
    let seconds: f64 = lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let packed = IMAGES.iter().map(|image| image.packed.len()).sum();
    let unpacked = IMAGES.iter().map(|image| image.unpacked_len).sum();
    format!(
        "{} images: {seconds:.0} s of processor time to build ({}), {:.2} MiB embedded, {:.1} MiB unpacked",
        IMAGES.len(),
        lines.lines().collect::<Vec<_>>().join(", "),
        mib(packed),
        mib(unpacked),
    )
}

/// Aligned and straddling loops, by 16-byte accesses alone, several in flight, within the budget: one of each that sums or
/// one of each that writes, and in the factored forward both.
fn check_loops(kernel: &str, target: &str, loops: &[MainLoop], budget: (f64, f64), table: &mut String) {
    let width = if kernel.ends_with("f16") { 8 } else { 4 };
    let factored = kernel.contains("factored");
    let mut seen = [[false; 2]; 2];
    for found in loops {
        // Where there is more to do for a byte, fewer of them need to be on their way.
        let more_to_do = kernel.contains("softcap") || kernel.contains("entropy");
        let in_flight = if found.stores > 0 && more_to_do { 2 } else { 4 };
        // What is left of a slice after its groups goes one vector at a time.
        if factored && found.loads < in_flight {
            continue;
        }
        // Elements one by one are those of the edges. A main loop that had such accesses would be missed below.
        if found.narrow > 0 {
            continue;
        }
        let straddling = found.straddling(width);
        let (name, budget) = if straddling { ("straddling", budget.1) } else { ("aligned", budget.0) };
        write!(table, " {name} {:.1} ({}+{})", found.per_element(), found.loads, found.stores).unwrap();
        assert!(found.loads >= in_flight, "{kernel} for {target}: {found:?} has too few loads in flight");
        assert_eq!(found.local, 0, "{kernel} for {target}: {found:?} spills");
        assert!(
            found.per_element() <= budget,
            "{kernel} for {target}: {found:?} is over {budget} an element"
        );
        seen[usize::from(found.stores > 0)][usize::from(straddling)] = true;
    }
    let (sums, writes) = (!kernel.contains("backward"), !kernel.contains("forward"));
    assert_eq!(
        seen,
        [[sums; 2], [writes; 2]],
        "{kernel} for {target}: expected an aligned and a straddling loop of each kind, found {loops:?}"
    );
}
