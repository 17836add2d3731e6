//! The kernels on the PTX interpreter: what runs where there is no GPU, under a stricter checker than the hardware.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Debug;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use dpo_kernels::cuda::images::{IMAGES, Kind};
use dpo_kernels::cuda::kernel::{Kernel, UNITS};
use dpo_kernels::cuda::params::DpoStatus;
use dpo_kernels::cuda::plan::{
    self, DeviceAddress, DeviceBatch, GradientBuffers, Inputs, Launch, LogpsBuffers,
};
use dpo_kernels::cuda::tuning::FactoredPartition;
use dpo_kernels::{Batch, DType, LabelAlignment, LabelType, Logit, PairLoss, Pairs};
use half::{bf16, f16};
use ptx_vm::{Module, Options, Placement, Stats, Vm};

use crate::case::{Case, Mask, PairKind, Spec};
use crate::executor::{Cpu, Device, Executor, Factored, OnDevice, Outcome, bytes_of, values_of};
use crate::expected::Expected;
use crate::guarded::Guard;
use crate::random::Random;
use crate::tolerance::precision::CPU;
use crate::{compile, devices, nvrtc};

/// Where PTX comes from.
enum Origin {
    /// The crate.
    Embedded,
    /// A compiler that has been here.
    Compiled(BTreeMap<&'static str, Vec<u8>>),
    /// For the mutants, a folder. Units that it does not have are those that the mutation changes: they are compiled for one dtype
    /// at a time, since most mutants are met before the others are needed.
    Mutant(PathBuf),
}

/// Modules, parsed when a launch first asks for them.
struct Modules {
    origin: Origin,
    /// By unit, and by dtype where that is compiled alone.
    parsed: Mutex<BTreeMap<(&'static str, Option<&'static str>), &'static Module>>,
}

impl Modules {
    fn of(origin: Origin) -> &'static Self {
        Box::leak(Box::new(Modules { origin, parsed: Mutex::default() }))
    }

    fn module(&self, kernel: Kernel) -> &'static Module {
        let unit = kernel.unit();
        let dtype = dtype_of(kernel).filter(|_| self.changes(unit)).map(DType::name);
        let mut parsed = self.parsed.lock().expect("nobody panics with it");
        parsed.entry((unit, dtype)).or_insert_with(|| {
            let text = String::from_utf8(self.ptx(unit, dtype)).expect("PTX is text");
            let module = Module::parse(text.trim_end_matches('\0'));
            Box::leak(Box::new(module.unwrap_or_else(|error| panic!("{unit}.cu: {error}"))))
        })
    }

    fn ptx(&self, unit: &'static str, dtype: Option<&str>) -> Vec<u8> {
        match &self.origin {
            Origin::Embedded => embedded(unit),
            Origin::Compiled(units) => units[unit].clone(),
            Origin::Mutant(_) if self.changes(unit) => Compiler::new().ptx(unit, 80, dtype),
            Origin::Mutant(folder) => std::fs::read(ptx_in(folder, unit)).expect("PTX of the folder"),
        }
    }

    /// Whether a mutation changes a unit.
    fn changes(&self, unit: &str) -> bool {
        matches!(&self.origin, Origin::Mutant(folder) if !ptx_in(folder, unit).exists())
    }

    /// The architecture, which is that of every unit.
    fn target(&self) -> u32 {
        self.module(Kernel::RowCoef).target()
    }
}

fn ptx_in(folder: &Path, unit: &str) -> PathBuf {
    folder.join(format!("{unit}.ptx"))
}

/// Of the kernels of which there is one for each element type.
fn dtype_of(kernel: Kernel) -> Option<DType> {
    match kernel {
        Kernel::Forward { dtype, .. }
        | Kernel::Backward { dtype, .. }
        | Kernel::Factored { dtype, .. }
        | Kernel::BiasGradient { dtype } => Some(dtype),
        _ => None,
    }
}

fn embedded(unit: &str) -> Vec<u8> {
    let image = IMAGES.iter().find(|image| image.unit == unit && image.kind == Kind::Ptx);
    image.expect("every unit is embedded as PTX").unpack().unwrap().to_vec()
}

/// What all tests run: what is embedded, or a mutant.
fn modules() -> &'static Modules {
    static MODULES: OnceLock<&'static Modules> = OnceLock::new();
    MODULES.get_or_init(|| {
        let folder = std::env::var_os("DPO_PTX_DIR");
        Modules::of(folder.map_or(Origin::Embedded, |folder| Origin::Mutant(folder.into())))
    })
}

pub struct Interpreter {
    vm: Vm,
    modules: &'static Modules,
    /// What plans are made for.
    device: plan::Device,
    buffers: Vec<DeviceAddress>,
    pub stats: Stats,
}

impl Interpreter {
    pub fn new(options: Options) -> Self {
        Interpreter::with(modules(), options)
    }

    /// A device of the modules' architecture.
    fn with(modules: &'static Modules, options: Options) -> Self {
        let target = modules.target();
        let fits = |device: &&plan::Device| device.capability.0 * 10 + device.capability.1 == target;
        let device = *devices::ALL.iter().find(fits).expect("there is a device of every architecture");
        Interpreter {
            vm: Vm::new(Options { threads: 1, ..options }),
            modules,
            device,
            buffers: vec![],
            stats: Stats::default(),
        }
    }

    /// With so little shared memory that rows of a few thousand logits take clusters of every size, and longer ones do
    /// not fit even there.
    fn cramped(mut self) -> Self {
        self.device.shared_bytes_per_block = 16 << 10;
        self
    }

    fn place(&mut self, address: DeviceAddress) -> DeviceAddress {
        self.buffers.push(address);
        address
    }
}

impl Device for Interpreter {
    fn name(&self) -> String {
        "ptx interpreter".into()
    }

    fn properties(&self) -> plan::Device {
        self.device
    }

    fn upload(&mut self, bytes: &[u8], phase: usize) -> DeviceAddress {
        let address = self.vm.memory.alloc(bytes, Placement::named("upload").offset(phase));
        self.place(address)
    }

    fn reserve(&mut self, len: usize) -> DeviceAddress {
        let address = self.vm.memory.alloc_uninit(len, Placement::named("reserve"));
        self.place(address)
    }

    fn download(&mut self, address: DeviceAddress, len: usize) -> Vec<u8> {
        self.vm.memory.read(address, len).unwrap_or_else(|error| panic!("{error}"))
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) {
        self.vm.memory.write(address, bytes).unwrap_or_else(|error| panic!("{error}"));
    }

    fn launch(&mut self, launch: &Launch) {
        let (asked, kernel, bytes) = (*launch, launch.kernel.to_string(), launch.arguments.as_bytes());
        let module = self.modules.module(launch.kernel);
        let launch = ptx_vm::Launch::new(&kernel, launch.grid, launch.block, bytes)
            .cluster(launch.cluster)
            .shared(launch.shared_bytes as usize);
        let stats = self.vm.launch(module, &launch).unwrap_or_else(|fault| panic!("{fault} {asked:?}"));
        self.stats.merge(&stats);
    }

    fn clear(&mut self) {
        for address in self.buffers.drain(..) {
            self.vm.memory.free(address).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// Everything that runs on the interpreter, and at the end what ran. The parts are independent and of one thread each: a
/// launch gives the same results on any number of them, and most launches are too small to share.
pub fn run() {
    fn suite(schedule_seed: u64, run: fn(&mut OnDevice<Interpreter>)) -> Stats {
        let mut executor = OnDevice(Interpreter::new(Options { schedule_seed, ..Options::default() }));
        run(&mut executor);
        executor.0.stats
    }
    fn uncounted(run: impl Fn()) -> Stats {
        run();
        Stats::default()
    }
    let fail_fast = std::env::var_os("DPO_FAIL_FAST").is_some();
    if fail_fast {
        // For the mutants: what one part complains of is enough, and the others would go on for minutes. (Not eprintln,
        // which the test harness would keep to itself until the end.)
        std::panic::set_hook(Box::new(|panic| {
            let _ = writeln!(std::io::stderr(), "{panic}");
            std::process::exit(101);
        }));
    }
    // Every dtype meets another order of blocks and warps.
    let head: [fn() -> Stats; 3] = [
        || suite(7, crate::lm_head::on_device::<f32>),
        || suite(8, crate::lm_head::on_device::<f16>),
        || suite(9, crate::lm_head::on_device::<bf16>),
    ];
    let others: [fn() -> Stats; 14] = [
        || suite(6, crate::pair_stage::every_kind),
        || suite(0, crate::run_checks_on_device::<f32>),
        || suite(1, crate::run_checks_on_device::<f16>),
        || suite(2, crate::run_checks_on_device::<bf16>),
        || uncounted(further_architectures),
        || suite(3, crate::run_layouts::<f32>),
        || suite(4, crate::run_layouts::<f16>),
        || suite(5, crate::run_layouts::<bf16>),
        || uncounted(|| assert_eq!([far_rows::<bf16>(false), far_rows::<f32>(false)], [2, 2])),
        || uncounted(|| assert_eq!([far_rows::<bf16>(true), far_rows::<f32>(true)], [2, 2])),
        || uncounted(|| factored_on_little_shared_memory::<bf16>(embedded_interpreter)),
        || uncounted(|| factored_on_little_shared_memory::<f32>(embedded_interpreter)),
        || uncounted(any_schedule_gives_the_same_bits),
        || uncounted(approximations_stay_within_the_bounds),
    ];
    // A mutant of what the head alone has is met there.
    let head_first = ["move_rows", "row_coef", "bias_gradient", "token_results"]
        .iter()
        .any(|unit| modules().changes(unit));
    let parts = if head_first && !modules().changes("forward") {
        [&head[..], &others].concat()
    } else {
        [&others[..], &head].concat()
    };
    let stats = Mutex::new(Stats::default());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ran = part();
            stats.lock().expect("nobody panics with it").merge(&ran);
        }
    };
    // As many at once as there are processors, the long ones first; of a mutant one after the other, since the first may end it.
    let processors = std::thread::available_parallelism().map_or(1, |processors| processors.get());
    std::thread::scope(|scope| {
        for _ in 0..if fail_fast { 1 } else { processors } {
            scope.spawn(work);
        }
    });
    let stats = stats.into_inner().expect("nobody panics with it");
    report(&stats);
}

fn embedded_interpreter(schedule_seed: u64) -> Interpreter {
    Interpreter::new(Options { schedule_seed, ..Options::default() })
}

/// Prints what was executed, and insists that it was everything.
fn report(stats: &Stats) {
    let mut out = std::io::stdout();
    let header = ["kernel", "launches", "blocks", "PTX instructions", "lines reached"];
    let [kernel, launches, blocks, instructions, reached] = header;
    writeln!(out, "{kernel:<32} {launches:>9} {blocks:>9} {instructions:>17} {reached:>14}").unwrap();
    for (name, kernel) in &stats.kernels {
        let (launches, blocks, instructions) = (kernel.launches, kernel.blocks, kernel.instructions);
        let reached = 100.0 * kernel.coverage();
        writeln!(out, "{name:<32} {launches:>9} {blocks:>9} {instructions:>17} {reached:>13.1}%").unwrap();
    }
    for kernel in Kernel::ALL {
        let ran = stats.kernels.get(&kernel.to_string()).is_some_and(|kernel| kernel.instructions > 0);
        assert!(ran, "{kernel} is embedded, but nothing ran it");
    }
}

/// Two sequences of one row, whose rows lie more than 2^31 elements apart: offsets must be 64 bits wide everywhere.
/// By two passes, or by the factored one. Returns the number of rows that came out right.
fn far_rows<T: Logit + Into<f64>>(factored: bool) -> usize {
    let vocab = 1001;
    let case = Case::<T>::draw(Spec { sequences: 2, longest: 1, ..Spec::plain(vocab) });
    let expected = Cpu { guard: Guard::Behind, precision: &CPU }.run(&case);
    let mut device = Interpreter::new(Options::default());
    let properties = device.properties();
    // The interpreter puts allocations far apart; one row each, and the stride is the distance.
    let rows = [0, 1].map(|row| device.upload(bytes_of(&case.logits[row * vocab..][..vocab]), 0));
    let row_stride = (rows[1] - rows[0]) as usize / size_of::<T>();
    assert!(row_stride > 1 << 31);
    let batch: DeviceBatch = Batch {
        row_stride,
        pairs: Pairs::Concatenated,
        ..Batch::padded(2, 1, vocab, LabelAlignment::Aligned)
    };
    let labels: Vec<i64> =
        case.targets().iter().map(|target| target.expect("all are scored") as i64).collect();
    let inputs = Inputs {
        dtype: T::DTYPE,
        logits: rows[0],
        label_type: LabelType::I64,
        labels: device.upload(bytes_of(&labels), 0),
        window: None,
    };
    let out = LogpsBuffers {
        logps: Some(device.reserve(8)),
        logsumexp: Some(device.reserve(8)),
        status: Some(device.reserve(size_of::<DpoStatus>())),
        ..LogpsBuffers::default()
    };
    let workspace = device.upload(&vec![0; plan::workspace_bytes(&batch).unwrap()], 0);
    if factored {
        let plan = plan::factored(&properties, &batch, &inputs, &out, None, rows[0], workspace);
        device.run(plan.unwrap());
    } else {
        device.run(plan::forward(&properties, &batch, &inputs, &out, None, workspace).unwrap());
        let gradient = GradientBuffers {
            logsumexp: out.logsumexp.unwrap(),
            logsumexp_residual: None,
            coef: Some(device.upload(bytes_of(&expected.pairs.coef), 0)),
            token_coef: None,
            entropy: None,
            upstream: None,
            upstream_scale: 1.0,
            threshold: 0.0,
            nonfinite_row: None,
            dlogits: rows[0],
        };
        device.run(plan::backward(&properties, &batch, &inputs, &gradient).unwrap());
    }
    let logps: Vec<f32> = values_of(&device.download(out.logps.unwrap(), 8));
    let close = |row: &usize| {
        let row = *row;
        let found: Vec<T> = values_of(&device.download(rows[row], vocab * size_of::<T>()));
        let coef = if factored { expected.pairs.coef[row] } else { 1.0 };
        (logps[row] - expected.logps.logps[row]).abs() < 1e-5
            && found.iter().zip(&expected.dlogits[row * vocab..]).all(|(found, expected)| {
                (coef * found.to_f32() - expected.to_f32()).abs() <= 1e-2 * expected.to_f32().abs() + 1e-6
            })
    };
    (0..2).filter(close).count()
}

/// A few cases of every kind.
pub fn samples<T: Logit>() -> Vec<Case<T>> {
    let mut random = Random(7);
    let mut sample = |vocab: usize| {
        let spec = Spec {
            row_stride: vocab + random.below(3),
            gradient_phase: random.pick(&[None, Some(4)]),
            sequences: 12,
            longest: 6,
            packed: random.below(2) == 0,
            pairs: random.pick(&[PairKind::Concatenated, PairKind::Indexed]),
            mask: random.pick(&[Mask::Holes, Mask::EmptySequence]),
            loss: PairLoss::sigmoid(0.3).unwrap().with_label_smoothing(0.1).unwrap(),
            seed: random.next(),
            ..Spec::plain(vocab)
        };
        Case::draw(spec)
    };
    [7, 33, 1000, 5003, 12_345, 40_001].map(&mut sample).into()
}

/// NVRTC may make other PTX of a source for a newer architecture: where it does, that runs too.
fn further_architectures() {
    let instructions = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        text.lines()
            .filter(|line| !line.starts_with(".target") && !line.contains(".file"))
            .map(str::to_owned)
            .collect()
    };
    let mut met = vec![UNITS.map(|unit| instructions(&embedded(unit))).to_vec()];
    let compiler = Compiler::new();
    for target in [90, 100, 120] {
        let compiled: BTreeMap<&str, Vec<u8>> =
            UNITS.iter().map(|&unit| (unit, compiler.ptx(unit, target, None))).collect();
        let kernels = UNITS.iter().map(|unit| instructions(&compiled[unit])).collect();
        if met.contains(&kernels) {
            continue;
        }
        met.push(kernels);
        let modules = Modules::of(Origin::Compiled(compiled));
        assert_eq!(modules.target(), target);
        let interpreter =
            |schedule_seed| Interpreter::with(modules, Options { schedule_seed, ..Options::default() });
        let mut executor = OnDevice(interpreter(0));
        for case in samples::<bf16>() {
            Expected::of(&case).check(&format!("compute_{target}"), &case, &executor.run(&case));
        }
        factored_on_little_shared_memory::<f32>(interpreter);
        factored_on_little_shared_memory::<f16>(interpreter);
        factored_on_little_shared_memory::<bf16>(interpreter);
    }
}

/// Rows that several blocks share, where the architecture has clusters, and rows that shared memory does not hold: the
/// same numbers as ever, in place and not, and the same bits for every schedule and every place in memory.
fn factored_on_little_shared_memory<T: Logit + Into<f64> + Debug>(interpreter: impl Fn(u64) -> Interpreter) {
    let mut divided = Vec::new();
    for case in samples::<T>() {
        let run = |case: &Case<T>, schedule_seed| {
            let mut executor = OnDevice(interpreter(schedule_seed).cramped());
            let outcome = Factored(&mut executor).run(case);
            assert!(executor.0.stats.kernels.values().all(|kernel| kernel.instructions > 0));
            outcome
        };
        let device = interpreter(0).cramped().device;
        divided.push(FactoredPartition::of(&device, T::DTYPE, case.spec.vocab));
        let outcome = run(&case, 0);
        Expected::of(&case).check(&format!("factored for {:?}", device.capability), &case, &outcome);
        let bits = |outcome: &Outcome<T>| format!("{outcome:?}");
        for schedule_seed in 1..3 {
            assert!(bits(&run(&case, schedule_seed)) == bits(&outcome), "the results depend on the schedule");
        }
        let mut moved = case.restrided(case.spec.vocab + 1, 4);
        moved.spec.gradient_phase = None;
        let token_logps = run(&moved, 0).logps.token_logps;
        assert!(
            token_logps.iter().map(|x| x.to_bits()).eq(outcome.logps.token_logps.iter().map(|x| x.to_bits()))
        );
    }
    let kept = |partition: &FactoredPartition| partition.kept_vectors == partition.rows.params.slice_vectors;
    assert!(divided.iter().any(kept) && !divided.iter().all(kept), "all or nothing is kept: {divided:?}");
    let most = divided.iter().map(|partition| partition.rows.params.blocks_per_row).max();
    assert_eq!(most, Some(interpreter(0).device.cluster_blocks), "{divided:?}");
}

/// NVRTC, with the sources; for the mutants, those of the folder which DPO_KERNELS_DIR names.
struct Compiler {
    units: Vec<compile::Source>,
    headers: Vec<compile::Source>,
}

impl Compiler {
    fn new() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let library = nvrtc::search(variable, nvrtc::site_packages(variable("VIRTUAL_ENV"))).found;
        compile::load(&library.expect("the crate was built with it")).unwrap();
        let folder = variable("DPO_KERNELS_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), PathBuf::from);
        let (units, headers) =
            compile::sources(&folder).unwrap().into_iter().partition(compile::Source::is_unit);
        Compiler { units, headers }
    }

    /// A unit's, or what it has of one dtype.
    fn ptx(&self, unit: &str, capability: u32, dtype: Option<&str>) -> Vec<u8> {
        let name = format!("{unit}.cu");
        let source = self.units.iter().find(|source| source.name.to_bytes() == name.as_bytes());
        let source = source.expect("every unit has a source");
        let headers: Vec<_> = self.headers.iter().map(|header| without_other_dtypes(header, dtype)).collect();
        let compiled = compile::compile(source, &headers, compile::Target::Ptx(capability), true);
        compiled.unwrap_or_else(|log| panic!("{name} does not compile: {log}")).image
    }
}

/// Of DPO_FOR_EACH_DTYPE one entry alone.
fn without_other_dtypes(header: &compile::Source, dtype: Option<&str>) -> compile::Source {
    let mut text = header.text.to_string_lossy().into_owned();
    let others =
        ["f32", "f16", "bf16"].into_iter().filter(|&other| dtype.is_some_and(|dtype| dtype != other));
    for other in others {
        text = text.replace(&format!("ENTRY({other}, {})", other.to_uppercase()), "");
    }
    compile::Source { name: header.name.clone(), text: CString::new(text).expect("sources have no NUL") }
}

/// Blocks and warps come in any order; no bit may depend on it.
fn any_schedule_gives_the_same_bits() {
    let run = |schedule_seed| {
        let mut executor = OnDevice(Interpreter::new(Options { schedule_seed, ..Options::default() }));
        let outcomes = |case: &Case<bf16>| format!("{:?}", executor.run(case));
        samples().iter().map(outcomes).collect::<Vec<_>>()
    };
    let expected = run(0);
    for schedule_seed in 1..5 {
        assert!(run(schedule_seed) == expected, "the results depend on the schedule, seed {schedule_seed}");
    }
}

/// ex2.approx and its kind may be off by their documented error on other hardware: the bounds must hold all the same.
fn approximations_stay_within_the_bounds() {
    fn check<T: Logit + Into<f64>>(approx_seed: u32) {
        let mut executor = OnDevice(Interpreter::new(Options { approx_seed, ..Options::default() }));
        for case in samples::<T>() {
            let who = format!("perturbed, seed {approx_seed}");
            let expected = Expected::of(&case);
            expected.check(&who, &case, &executor.run(&case));
            expected.check(&who, &case, &Factored(&mut executor).run(&case));
        }
    }
    for approx_seed in 1..4 {
        check::<f32>(approx_seed);
        check::<f16>(approx_seed);
    }
}
