//! Executed instructions per element: what a whole launch costs, beside the main loops that tests/machine_code.rs counts.
//!
//! The PTX interpreter runs each kernel on representative shapes as an H100 would be given them, and counts the PTX
//! instructions that warps issue, times the lanes of a warp, per element of the logits: what a profiler calls executed
//! instructions, but of PTX. The kernels' sources state the budgets, and `make kernels-report` prints the table.
#![cfg(feature = "cuda")]

#[path = "common/devices.rs"]
#[allow(dead_code)] // the other suites use all of them
mod devices;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::size_of;
use std::path::Path;

use dpo_kernels::cuda::images::{IMAGES, Kind};
use dpo_kernels::cuda::kernel::UNITS;
use dpo_kernels::cuda::params::{DpoMeanTokenMetrics, DpoPairMetrics, DpoStatus};
use dpo_kernels::cuda::plan::{
    self, Arguments, Device, DeviceAddress, DeviceBatch, DeviceLmHead, DeviceLmHeadGradients,
    DevicePairInputs, EntropyBuffers, GradientBuffers, Inputs, Launch, LmHeadMemory, LmHeadRows,
    LmHeadWorkspace, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan, TokenMetricBuffers,
};
use dpo_kernels::{
    Batch, DType, HostBatch, LabelAlignment, LabelType, MetricsLevel, PairLoss, Pairs, Transform,
};
use half::bf16;
use ptx_vm::{Module, Options, Placement, Vm};

/// Lanes of a warp.
const WARP: f64 = 32.0;

/// Rows and vocabulary.
const SHAPES: [(usize, usize); 4] = [(8, 32_000), (4, 50_257), (64, 4096), (2, 128_256)];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    Forward(MetricsLevel),
    /// With a gradient of entropies, or without.
    Backward {
        entropy: bool,
    },
    Factored,
}

/// What the table has a line for.
struct Line {
    name: &'static str,
    pass: Pass,
    transform: Transform,
    /// Rows divided among blocks, as where they are few; otherwise whole, as where they are thousands.
    divided: bool,
}

fn lines() -> Vec<Line> {
    let none = Transform::default();
    let scale = Transform { scale: 0.7, ..none };
    let softcap = Transform { softcap: Some(30.0), ..none };
    let line = |name, pass, transform| Line { name, pass, transform, divided: false };
    vec![
        line("forward", Pass::Forward(MetricsLevel::None), none),
        Line { divided: true, ..line("forward, rows divided", Pass::Forward(MetricsLevel::None), none) },
        line("forward, scale", Pass::Forward(MetricsLevel::None), scale),
        line("forward, softcap", Pass::Forward(MetricsLevel::None), softcap),
        line("forward, entropy", Pass::Forward(MetricsLevel::Entropy), none),
        line("forward, entropy, scale", Pass::Forward(MetricsLevel::Entropy), scale),
        line("forward, entropy, softcap", Pass::Forward(MetricsLevel::Entropy), softcap),
        line("forward, metrics", Pass::Forward(MetricsLevel::All), none),
        line("forward, metrics, scale", Pass::Forward(MetricsLevel::All), scale),
        line("forward, metrics, softcap", Pass::Forward(MetricsLevel::All), softcap),
        line("backward", Pass::Backward { entropy: false }, none),
        line("backward, scale", Pass::Backward { entropy: false }, scale),
        line("backward, softcap", Pass::Backward { entropy: false }, softcap),
        line("backward, entropy", Pass::Backward { entropy: true }, none),
        line("backward, entropy, softcap", Pass::Backward { entropy: true }, softcap),
        line("factored", Pass::Factored, none),
        line("factored, scale", Pass::Factored, scale),
        line("factored, softcap", Pass::Factored, softcap),
    ]
}

fn module(unit: &str) -> Module {
    let text = match std::env::var_os("DPO_PTX_DIR") {
        Some(folder) => std::fs::read(Path::new(&folder).join(format!("{unit}.ptx"))).expect("PTX"),
        None => {
            let image = IMAGES.iter().find(|image| image.unit == unit && image.kind == Kind::Ptx);
            image.expect("every unit is embedded as PTX").unpack().expect("it is whole").to_vec()
        }
    };
    let text = String::from_utf8(text).expect("PTX is text");
    Module::parse(text.trim_end_matches('\0')).unwrap_or_else(|error| panic!("{unit}.cu: {error}"))
}

/// An H100, whose tuning is the H200's, as far as the embedded PTX lets it: that of compute capability 8.0 knows no clusters.
const H100: Device = Device { cluster_blocks: 1, ..devices::H200 };

/// The machine, and how to place things there.
struct Machine<'a> {
    vm: Vm,
    modules: &'a BTreeMap<&'static str, Module>,
}

impl Machine<'_> {
    fn upload<T: Copy>(&mut self, values: &[T]) -> DeviceAddress {
        // SAFETY: plain numbers.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        self.vm.memory.alloc(bytes, Placement::named("upload"))
    }

    fn words(&mut self, count: usize) -> DeviceAddress {
        self.upload(&vec![0u32; count])
    }

    /// Where the results of a pair go.
    fn pair_outputs(&mut self) -> PairOutputBuffers {
        PairOutputBuffers {
            pair_losses: Some(self.words(1)),
            chosen_rewards: Some(self.words(1)),
            rejected_rewards: Some(self.words(1)),
            margins: Some(self.words(1)),
            coef: Some(self.words(2)),
            metrics: Some(self.words(size_of::<DpoPairMetrics>() / 4)),
        }
    }

    /// Executed instructions of a launch.
    fn executed(&mut self, launch: &Launch) -> u64 {
        let name = launch.kernel.to_string();
        let bytes = launch.arguments.as_bytes();
        let asked = ptx_vm::Launch::new(&name, launch.grid, launch.block, bytes)
            .cluster(launch.cluster)
            .shared(launch.shared_bytes as usize);
        let module = &self.modules[launch.kernel.unit()];
        let stats = self.vm.launch(module, &asked).unwrap_or_else(|fault| panic!("{fault}"));
        stats.kernels[&name].executed
    }
}

/// The one launch of a plan; of a forward pass as it would be among thousands of rows, if they are not `divided`.
fn launch(plan: &Plan, divided: bool) -> Launch {
    let mut launch = *plan.launches().next().expect("a plan has a launch");
    if let Arguments::Forward(params) = &mut launch.arguments {
        let partition = &mut params.partition;
        assert!(partition.blocks_per_row == partition.slices, "these rows are few");
        if !divided {
            devices::deal(&mut launch.grid, partition, u32::MAX);
        }
    }
    launch
}

/// Executed instructions per element of one pass over `rows` scored rows.
fn measure(
    modules: &BTreeMap<&'static str, Module>,
    line: &Line,
    dtype: DType,
    (rows, vocab): (usize, usize),
) -> f64 {
    let mut machine = Machine { modules, vm: Vm::new(Options { arch: Some(90), ..Options::default() }) };
    let mut state = 1u64;
    let logits: Vec<f32> = (0..rows * vocab)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 20) as f32 - 8.0
        })
        .collect();
    let logits = match dtype {
        DType::F32 => machine.upload(&logits),
        DType::BF16 => machine.upload(&logits.iter().map(|&z| bf16::from_f32(z)).collect::<Vec<_>>()),
        DType::F16 => unreachable!("it has the instructions of bf16, but for one conversion"),
    };
    let labels: Vec<i64> = (0..rows as i64).collect();
    let labels = machine.upload(&labels);
    let batch: DeviceBatch = Batch {
        pairs: Pairs::Concatenated,
        transform: line.transform,
        ..Batch::padded(2, rows / 2, vocab, LabelAlignment::Aligned)
    };
    let inputs = Inputs { dtype, logits, label_type: LabelType::I64, labels, window: None };
    let mut metrics = None;
    if let Pass::Forward(asked) = line.pass {
        let mut wanted = |condition: bool, words| condition.then(|| machine.words(words));
        let all = asked == MetricsLevel::All;
        metrics = Some(TokenMetricBuffers {
            entropy: wanted(asked != MetricsLevel::None, rows),
            correct: wanted(all, rows),
            mean_logit: wanted(all, rows),
            sum_p2: wanted(all, rows),
            sequence_log_weights: wanted(all, 2),
            mean: wanted(all, size_of::<DpoMeanTokenMetrics>() / 4),
        });
    }
    let out = LogpsBuffers {
        logps: Some(machine.words(2)),
        logsumexp: Some(machine.words(rows)),
        logsumexp_residual: Some(machine.words(rows)),
        metrics,
        status: Some(machine.words(size_of::<DpoStatus>() / 4)),
        ..LogpsBuffers::default()
    };
    let pairs = machine.pair_outputs();
    let loss = PairLoss::sigmoid(0.1).unwrap().without_reference();
    let loss = Some(&PairLossArguments { loss: &loss, inputs: DevicePairInputs::NONE, out: &pairs });
    let workspace = machine.words(plan::workspace_bytes(&batch).unwrap() / 4 + 2);
    let plan = match line.pass {
        Pass::Forward(_) => plan::forward(&H100, &batch, &inputs, &out, loss, workspace),
        Pass::Factored => plan::factored(&H100, &batch, &inputs, &out, loss, logits, workspace),
        Pass::Backward { entropy } => {
            let entropies = EntropyBuffers { coef: machine.words(rows), entropy: machine.words(rows) };
            let gradient = GradientBuffers {
                logsumexp: out.logsumexp.unwrap(),
                logsumexp_residual: out.logsumexp_residual,
                coef: Some(machine.upload(&[0.5f32, -0.5])),
                token_coef: None,
                entropy: entropy.then_some(entropies),
                upstream: None,
                upstream_scale: 1.0,
                threshold: 0.0,
                nonfinite_row: Some(machine.words(1)),
                dlogits: logits,
            };
            plan::backward(&H100, &batch, &inputs, &gradient)
        }
    };
    machine.executed(&launch(&plan.unwrap(), line.divided)) as f64 * WARP / (rows * vocab) as f64
}

/// `// Executed: 14 aligned, 17 straddling` in the kernel's source, `// Executed of entropy: ...` and the like: the most
/// that any of the shapes may take, of rows on 16-byte boundaries and of others.
fn budget(line: &Line) -> (f64, f64) {
    let unit = match line.pass {
        Pass::Forward(_) => "forward",
        Pass::Backward { .. } => "backward",
        Pass::Factored => "factored",
    };
    let metrics = match line.pass {
        Pass::Forward(MetricsLevel::Entropy) | Pass::Backward { entropy: true } => Some("entropy"),
        Pass::Forward(MetricsLevel::All) => Some("metrics"),
        _ => None,
    };
    let softcap = line.transform.softcap.map(|_| "softcap");
    let divided = line.divided.then_some("divided rows");
    let more: Vec<_> = metrics.into_iter().chain(softcap).chain(divided).collect();
    let more = if more.is_empty() { String::new() } else { format!(" of {}", more.join(" and ")) };
    let numbers = stated(unit, &more);
    (numbers[0], numbers[1])
}

/// The numbers behind `// Executed...: ` in a kernel's source.
fn stated(unit: &str, more: &str) -> Vec<f64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(format!("{unit}.cu"));
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("// Executed{more}: ")).expect("a budget");
    let line = rest.lines().next().expect("a line");
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn launches_stay_within_their_budgets() {
    let modules: BTreeMap<_, _> = UNITS.into_iter().map(|unit| (unit, module(unit))).collect();
    let mut table = format!("{:<28} {:<5}", "executed per element", "dtype");
    for (rows, vocab) in SHAPES {
        write!(table, " {:>12}", format!("{rows} x {vocab}")).unwrap();
    }
    table.push('\n');
    let mut plain = BTreeMap::new();
    let mut failures = String::new();
    for line in lines() {
        let (aligned, straddling) = budget(&line);
        for dtype in [DType::BF16, DType::F32] {
            write!(table, "{:<28} {:<5}", line.name, dtype.name()).unwrap();
            for shape in SHAPES {
                let found = measure(&modules, &line, dtype, shape);
                write!(table, " {found:>12.2}").unwrap();
                let mut most = if (shape.1 * dtype.size()).is_multiple_of(16) { aligned } else { straddling };
                if line.name == "forward" {
                    plain.insert((dtype.name(), shape), found);
                } else if line.name == "forward, entropy" {
                    // One multiply-add more than the log-prob, and a little for its part in the reductions.
                    most = most.min(1.25 * plain[&(dtype.name(), shape)]);
                }
                if found > most {
                    writeln!(
                        failures,
                        "{}, {}, {shape:?}: {found:.2}, over {most:.2}",
                        line.name,
                        dtype.name()
                    )
                    .unwrap();
                }
            }
            table.push('\n');
        }
    }
    if std::env::var_os("DPO_KERNELS_REPORT").is_some() {
        write!(std::io::stdout(), "{table}").unwrap();
    }
    assert!(failures.is_empty(), "executed instructions per element:\n{failures}");
}

/// What a launch between the products is counted by: its kernel, where its budget is stated, and of how many elements or rows.
fn head_launch(launch: &Launch) -> Option<(String, (&'static str, &'static str), f64)> {
    let of = |unit, more, count: f64| Some((launch.kernel.to_string(), (unit, more), count));
    match &launch.arguments {
        Arguments::MoveRows(params) => {
            let has_16_bits = launch.kernel.to_string().contains("16");
            let more = if has_16_bits { " of 16 bits" } else { "" };
            of("move_rows", more, f64::from(params.rows) * f64::from(params.columns))
        }
        Arguments::ClearRows(params) => of("move_rows", " of clear_rows", params.rows.into()),
        Arguments::BiasGradient(params) => {
            of("bias_gradient", "", f64::from(params.rows) * f64::from(params.columns))
        }
        Arguments::RowCoef(params) => {
            of("row_coef", "", (params.batch.end_row - params.batch.first_row).into())
        }
        Arguments::TokenResults(params) => of("token_results", "", params.scored_rows.into()),
        _ => None,
    }
}

/// The launches of the head that no pass over logits has: all of a pair's gradients, and those of a frozen head.
#[test]
fn the_heads_launches_stay_within_their_budgets() {
    const SIZE: usize = 1024;
    const VOCAB: usize = 4096;
    let modules: BTreeMap<_, _> = UNITS.into_iter().map(|unit| (unit, module(unit))).collect();
    let batch = HostBatch::padded(2, 64, VOCAB, LabelAlignment::Aligned);
    let labels: Vec<i64> = (0..batch.rows() as i64).collect();
    let rows = LmHeadRows::new(&batch, labels[..].into()).unwrap();
    let mut most = BTreeMap::new();
    for (dtype, logits_dtype) in
        [(DType::F32, DType::F32), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)]
    {
        for frozen in [false, true] {
            let mut machine =
                Machine { modules: &modules, vm: Vm::new(Options { arch: Some(90), ..Options::default() }) };
            let memory = LmHeadMemory { logits_dtype, ..LmHeadMemory::new(rows.capacity(), dtype, SIZE) };
            let workspace = machine.words((memory.workspace_bytes().unwrap() + 256) / 4);
            let workspace = LmHeadWorkspace { address: workspace.next_multiple_of(256), memory };
            // Zeros do as well as any numbers: no kernel here looks at them, save for a c of 0.
            let words = |elements: usize| elements * dtype.size() / 4;
            let head = DeviceLmHead {
                dtype,
                hidden_size: SIZE,
                hidden: machine.words(words(batch.rows() * SIZE)),
                weight: machine.words(words(VOCAB * SIZE)),
                bias: Some(machine.words(words(VOCAB))),
            };
            let gradients = DeviceLmHeadGradients {
                hidden: Some(machine.words(words(batch.rows() * SIZE))),
                weight: (!frozen).then(|| machine.words(VOCAB * SIZE)),
                bias: (!frozen).then(|| machine.words(VOCAB)),
                nonfinite_row: Some(machine.words(1)),
                ..DeviceLmHeadGradients::default()
            };
            let out = LogpsBuffers {
                logps: Some(machine.words(2)),
                token_logps: Some(machine.words(batch.rows())),
                logsumexp: Some(machine.words(batch.rows())),
                status: Some(machine.words(size_of::<DpoStatus>() / 4)),
                ..LogpsBuffers::default()
            };
            let pairs = machine.pair_outputs();
            let loss = PairLoss::sigmoid(0.1).unwrap().without_reference();
            let loss = PairLossArguments { loss: &loss, inputs: DevicePairInputs::NONE, out: &pairs };
            let entries = machine.upload(rows.entries());
            let plan =
                plan::lm_head(&H100, &rows, entries, VOCAB, &head, &out, Some(&loss), &gradients, &workspace);
            for launch in plan.unwrap().launches() {
                let executed = machine.executed(launch) as f64 * WARP;
                if let Some((kernel, budget, count)) = head_launch(launch) {
                    let (found, _) = most.entry(kernel).or_insert((0.0f64, budget));
                    *found = found.max(executed / count);
                }
            }
        }
    }
    let mut failures = String::new();
    for (kernel, (found, (unit, more))) in &most {
        let budget = stated(unit, more)[0];
        if std::env::var_os("DPO_KERNELS_REPORT").is_some() {
            writeln!(std::io::stdout(), "{kernel:<28} {found:>12.2}").unwrap();
        }
        if *found > budget {
            writeln!(failures, "{kernel}: {found:.2}, over {budget:.2}").unwrap();
        }
    }
    assert!(failures.is_empty(), "executed instructions per element or row:\n{failures}");
    assert_eq!(most.len(), 9, "not all of the head's kernels ran: {most:?}");
}
