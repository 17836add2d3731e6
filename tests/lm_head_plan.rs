//! Plans of the head, which are pure: the steps of every way, the shapes of products, where things lie, and what is refused.
#![cfg(feature = "cuda")]

#[path = "common/devices.rs"]
#[allow(dead_code)]
mod devices;

use devices::H200;
use dpo_kernels::cuda::plan::{
    self, Capacity, DeviceLmHead, DeviceLmHeadCoef, DeviceLmHeadGradients, DevicePairInputs, EntropyBuffers,
    LmHeadMemory, LmHeadRows, LmHeadWorkspace, LogpsBuffers, PairLossArguments, PairOutputBuffers, Plan,
    Product, Step, TokenMetricBuffers,
};
use dpo_kernels::{DType, Error, HostBatch, LabelAlignment, PairLoss, Pairs, Result, Transform};

const SIZE: usize = 32;
const VOCAB: usize = 1003;
const ENTRIES: u64 = 0x10_0000;
const HIDDEN: u64 = 0x20_0000;
const WEIGHT: u64 = 0x40_0000;
const BIAS: u64 = 0x60_0000;
const DHIDDEN: u64 = 0x70_0000;
const DWEIGHT: u64 = 0x80_0000;
const DBIAS: u64 = 0xa0_0000;
const WORKSPACE: u64 = 0x1_0000_0000;
const OUT: LogpsBuffers = LogpsBuffers {
    logps: Some(0x3000),
    scored: None,
    token_logps: Some(0x3800),
    logsumexp: Some(0x4000),
    logsumexp_residual: Some(0x5000),
    token_weights: None,
    metrics: None,
    status: Some(0x6000),
};
const PAIRS: PairOutputBuffers = PairOutputBuffers {
    pair_losses: Some(0x8000),
    chosen_rewards: Some(0x9000),
    rejected_rewards: Some(0xa000),
    margins: Some(0xb000),
    coef: Some(0xc000),
    metrics: Some(0xd000),
};
const HEAD: DeviceLmHead =
    DeviceLmHead { dtype: DType::BF16, hidden_size: SIZE, hidden: HIDDEN, weight: WEIGHT, bias: None };
const ALL: DeviceLmHeadGradients = DeviceLmHeadGradients {
    hidden: Some(DHIDDEN),
    weight: Some(DWEIGHT),
    bias: Some(DBIAS),
    upstream: None,
    upstream_scale: 1.0,
    nonfinite_row: None,
};
const FROZEN: DeviceLmHeadGradients = DeviceLmHeadGradients { weight: None, bias: None, ..ALL };
const NONE: DeviceLmHeadGradients = DeviceLmHeadGradients { hidden: None, ..FROZEN };

/// Two pairs of four rows each.
fn batch() -> HostBatch<'static> {
    HostBatch::padded(4, 4, VOCAB, LabelAlignment::Aligned)
}

/// All of the inputs of a plan.
struct Call<'a> {
    batch: HostBatch<'a>,
    labels: Vec<i64>,
    entries: u64,
    head: DeviceLmHead,
    loss: Option<PairLoss>,
    out: LogpsBuffers,
    gradients: DeviceLmHeadGradients,
    /// Rows of a chunk.
    chunk_rows: usize,
    capacity: Option<Capacity>,
    /// Where it is not the head's.
    logits_dtype: Option<DType>,
    address: u64,
}

impl<'a> Call<'a> {
    fn new(gradients: DeviceLmHeadGradients, chunk_rows: usize) -> Self {
        Call {
            batch: batch(),
            labels: vec![7; 16],
            entries: ENTRIES,
            head: HEAD,
            loss: Some(PairLoss::sigmoid(0.1).unwrap().without_reference()),
            out: OUT,
            gradients,
            chunk_rows,
            capacity: None,
            logits_dtype: None,
            address: WORKSPACE,
        }
    }

    fn rows(&self) -> LmHeadRows {
        LmHeadRows::new(&self.batch, self.labels[..].into()).unwrap()
    }

    fn workspace(&self) -> LmHeadWorkspace {
        let capacity = self.capacity.unwrap_or(self.rows().capacity());
        let DeviceLmHead { dtype, hidden_size, .. } = self.head;
        let logits_dtype = self.logits_dtype.unwrap_or(dtype);
        let memory = LmHeadMemory { logits_dtype, ..LmHeadMemory::new(capacity, dtype, hidden_size) };
        let budget_bytes = self.chunk_rows * memory.bytes_per_row(capacity.vocab);
        let memory = LmHeadMemory { budget_bytes, ..memory };
        LmHeadWorkspace { address: self.address, memory }
    }

    fn plan_in(&self, workspace: &LmHeadWorkspace) -> Result<Plan> {
        let arguments = self.loss.as_ref().map(|loss| PairLossArguments {
            loss,
            inputs: DevicePairInputs::NONE,
            out: &PAIRS,
        });
        let (rows, loss) = (self.rows(), arguments.as_ref());
        let Call { entries, head, out, gradients, batch, .. } = self;
        plan::lm_head(&H200, &rows, *entries, batch.vocab, head, out, loss, gradients, workspace)
    }

    fn plan(&self) -> Result<Plan> {
        self.plan_in(&self.workspace())
    }

    fn steps(&self) -> Vec<String> {
        self.plan().unwrap().steps().iter().map(name).collect()
    }
}

fn name(step: &Step) -> String {
    match step {
        Step::Launch(launch) => launch.kernel.to_string().trim_start_matches("dpo_").to_string(),
        Step::Product(product) => {
            let (m, k) = product.left.shape();
            let add = if product.accumulate { " added" } else { "" };
            format!("{m} x {k} x {}{add}", product.right.shape().1)
        }
        Step::Zero { bytes, .. } => format!("zero {bytes}"),
    }
}

#[test]
fn every_way_has_its_products() {
    let whole_pairs = [
        "zero 1024", // dX
        "zero 16",   // log-probs of sequences
        "move_rows_bf16",
        "16 x 32 x 1003",
        "factored_bf16",
        "pair_loss",
        "row_coef",
        "bias_gradient_bf16",
        "move_rows_bf16",
        "clear_rows",
        "1003 x 16 x 32 added",
        "16 x 1003 x 32",
        "move_rows_f32_to_bf16",
        "token_results",
    ];
    assert_eq!(Call::new(ALL, 16).steps(), whole_pairs);
    // Each pair is two runs of rows, since chosen ones come first.
    let one_pair = Call::new(ALL, 8).steps();
    assert_eq!(one_pair.iter().filter(|step| **step == "factored_bf16").count(), 4);
    assert_eq!(one_pair.iter().filter(|step| **step == "8 x 32 x 1003").count(), 2);
    // Interleaved pairs are one.
    let interleaved = Call { batch: HostBatch { pairs: Pairs::Interleaved, ..batch() }, ..Call::new(ALL, 8) };
    assert_eq!(interleaved.steps().iter().filter(|step| **step == "factored_bf16").count(), 2);

    let frozen = [
        "zero 1024",
        "move_rows_bf16",
        "16 x 32 x 1003",
        "factored_bf16",
        "16 x 1003 x 32",
        "move_rows_f32_to_bf16",
        "row_coef",
        "move_rows_bf16", // times c, where it stands
        "token_results",
    ];
    assert_eq!(Call::new(FROZEN, 16).steps(), frozen);

    let logps = Call { loss: None, ..Call::new(NONE, 16) };
    assert_eq!(logps.steps(), ["move_rows_bf16", "16 x 32 x 1003", "forward_bf16", "token_results"]);

    // No pair fits into six rows, so that logits are made twice.
    let two_sweeps = Call::new(ALL, 6).steps();
    let times = |step: &str| two_sweeps.iter().filter(|name| **name == step).count();
    assert_eq!((times("6 x 32 x 1003"), times("4 x 32 x 1003")), (4, 2));
    assert_eq!((times("1003 x 6 x 32 added"), times("pair_loss"), times("factored_bf16")), (2, 0, 0));
    assert!(times("forward_bf16") >= 3 && times("backward_bf16") >= 3);
}

/// Token metrics, which the factored forward does not know, take two passes over logits for its one, and as many products.
#[test]
fn what_the_factored_forward_does_not_take_costs_no_product() {
    let products = |call: &Call<'_>| call.plan().unwrap().products().count();
    let metrics = TokenMetricBuffers { entropy: Some(0x7000), ..TokenMetricBuffers::default() };
    let measured = Call { out: LogpsBuffers { metrics: Some(metrics), ..OUT }, ..Call::new(ALL, 16) };
    assert_eq!(products(&measured), products(&Call::new(ALL, 16)));
    let steps = measured.steps();
    for pass in ["forward_entropy_bf16", "backward_bf16"] {
        assert!(steps.iter().any(|step| step == pass), "{steps:?}");
    }
    // A transform is no reason.
    let transform = Transform { softcap: Some(30.0), ..Transform::default() };
    let capped = Call { batch: HostBatch { transform, ..batch() }, ..Call::new(ALL, 16) };
    assert!(capped.steps().contains(&"factored_softcap_bf16".to_string()));
    // Padding of the vocabulary is not multiplied, and the rest is as it was.
    let transform = Transform { valid_vocab: Some(1000), ..Transform::default() };
    let padded = Call { batch: HostBatch { transform, ..batch() }, ..Call::new(ALL, 16) };
    let steps = padded.steps();
    assert!(steps.contains(&"16 x 32 x 1000".to_string()) && steps.contains(&"factored_bf16".to_string()));
}

#[test]
fn rows_that_are_not_scored_are_not_multiplied() {
    let mut call = Call::new(ALL, 16);
    for row in [0, 1, 4, 8, 9, 15] {
        call.labels[row] = -100;
    }
    assert!(call.steps().contains(&"10 x 32 x 1003".to_string()));
    assert_eq!(call.rows().count(), 10);
    call.labels.fill(-100);
    assert_eq!(call.steps(), ["zero 1024", "forward_bf16", "token_results"]);
}

#[test]
fn products_are_of_the_types_and_strides_that_they_say() {
    let call = Call { head: DeviceLmHead { bias: Some(BIAS), ..HEAD }, ..Call::new(ALL, 16) };
    let plan = call.plan().unwrap();
    let [logits, dweight, dhidden]: [&Product; 3] = plan.products().collect::<Vec<_>>().try_into().unwrap();
    // Rows of logits begin on 16-byte boundaries.
    assert_eq!((logits.out.row_stride, logits.out.dtype, logits.bias), (1008, DType::BF16, Some(BIAS)));
    assert_eq!((logits.right.matrix.address, logits.right.transposed), (WEIGHT, true));
    assert_eq!((dweight.out.address, dweight.out.dtype, dweight.out.row_stride), (DWEIGHT, DType::F32, SIZE));
    assert_eq!((dweight.left.matrix, dweight.left.transposed), (logits.out, true));
    assert_eq!((dweight.right.matrix, dweight.bias), (logits.left.matrix, None));
    assert_eq!((dhidden.left.matrix, dhidden.right.matrix.address), (logits.out, WEIGHT));
    assert_eq!((dhidden.out.dtype, dhidden.accumulate, dhidden.right.transposed), (DType::F32, false, false));
    for product in [logits, dweight, dhidden] {
        assert_eq!(product.workspace_bytes, LmHeadMemory::DEFAULT_PRODUCT_BYTES);
        assert_eq!(product.workspace % 256, 0);
    }
}

/// Whatever the batch, within whatever capacity: what products write lies within the workspace, apart from what they read.
#[test]
fn chunks_stay_within_the_workspace() {
    let transform = Transform { valid_vocab: Some(100), ..Transform::default() };
    for capacity in [None, Some(Capacity { sequences: 9, rows: 77, pairs: 5, vocab: 2000 })] {
        for batch in [batch(), HostBatch { transform, ..batch() }] {
            for chunk_rows in [1, 3, 8, 100] {
                let call = Call { batch, capacity, ..Call::new(ALL, chunk_rows) };
                let workspace = call.workspace();
                let end = WORKSPACE + workspace.memory.workspace_bytes().unwrap() as u64;
                for product in call.plan().unwrap().products() {
                    let of = |matrix: plan::Matrix| {
                        let bytes = (matrix.rows * matrix.row_stride * matrix.dtype.size()) as u64;
                        matrix.address..matrix.address + bytes
                    };
                    let (out, left, right) =
                        (of(product.out), of(product.left.matrix), of(product.right.matrix));
                    assert!(
                        out.start == DWEIGHT || (WORKSPACE <= out.start && out.end <= end),
                        "{product:?}"
                    );
                    let work = product.workspace..product.workspace + product.workspace_bytes as u64;
                    assert!(work.end <= end);
                    for read in [&left, &right, &work] {
                        assert!(out.end <= read.start || read.end <= out.start, "{product:?}");
                    }
                    assert!(product.out.rows.min(product.left.matrix.rows) <= chunk_rows.max(1));
                }
            }
        }
    }
}

#[test]
fn there_is_room_for_the_entries_of_every_layout() {
    let cu_seqlens = [0, 3, 3, 9, 12];
    let packed = HostBatch::packed(&cu_seqlens[..], 12, VOCAB, LabelAlignment::NextToken);
    let indexed = Pairs::Indexed { chosen: &[0, 3][..], rejected: &[1, 2] };
    let unpaired = Pairs::Unpaired { desirable: &[1, 0, 1, 0][..] };
    for pairs in [Pairs::None, Pairs::Concatenated, indexed, unpaired] {
        let batch = HostBatch { pairs, ..packed };
        let rows = LmHeadRows::new(&batch, [5i64; 12][..].into()).unwrap();
        assert!(rows.entries().len() <= LmHeadRows::most_entries(&Capacity::of(&batch)));
        // The last row of a sequence predicts nothing.
        assert_eq!(rows.count(), 9);
    }
}

fn value(error: Error) -> (&'static str, String) {
    match error {
        Error::Value { argument, expected, .. } => (argument, expected),
        other => panic!("{other}"),
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |call: Call<'_>| value(call.plan().unwrap_err());
    for (argument, gradients) in [
        ("gradients.hidden", DeviceLmHeadGradients { hidden: Some(HIDDEN), ..ALL }),
        ("gradients.hidden", DeviceLmHeadGradients { hidden: Some(HIDDEN + 1022), ..ALL }),
        ("gradients.hidden", DeviceLmHeadGradients { hidden: Some(DHIDDEN + 1), ..ALL }),
        ("gradients.weight", DeviceLmHeadGradients { weight: Some(WEIGHT + 64), ..ALL }),
        ("gradients.weight", DeviceLmHeadGradients { weight: Some(DWEIGHT + 2), ..ALL }),
        ("gradients.weight", DeviceLmHeadGradients { weight: Some(0), ..ALL }),
        ("gradients.bias", DeviceLmHeadGradients { bias: Some(WORKSPACE + 64), ..ALL }),
        ("gradients.upstream", DeviceLmHeadGradients { upstream: Some(2), ..ALL }),
        ("gradients.nonfinite_row", DeviceLmHeadGradients { nonfinite_row: Some(3), ..ALL }),
    ] {
        assert_eq!(refused(Call::new(gradients, 16)).0, argument, "{gradients:x?}");
    }
    for (argument, head) in [
        ("hidden", DeviceLmHead { hidden: HIDDEN + 1, ..HEAD }),
        ("weight", DeviceLmHead { weight: 0, ..HEAD }),
        ("bias", DeviceLmHead { bias: Some(BIAS + 8), ..HEAD }),
    ] {
        assert_eq!(refused(Call { head, ..Call::new(ALL, 16) }).0, argument);
    }
    assert_eq!(refused(Call { entries: ENTRIES + 2, ..Call::new(ALL, 16) }).0, "entries");
    assert_eq!(refused(Call { address: WORKSPACE + 128, ..Call::new(ALL, 16) }).0, "workspace");
    let at_the_end = Call { address: u64::MAX - 255, ..Call::new(ALL, 16) };
    assert_eq!(
        refused(at_the_end),
        ("workspace", "memory that does not reach beyond the last address".into())
    );

    // A head that is not the one that the workspace is laid out for, sizes without a meaning, and too small a budget.
    let call = Call::new(ALL, 16);
    let workspace = call.workspace();
    let in_memory =
        |memory: LmHeadMemory| value(call.plan_in(&LmHeadWorkspace { memory, ..workspace }).unwrap_err()).0;
    let memory = workspace.memory;
    assert_eq!(in_memory(LmHeadMemory { dtype: DType::F16, ..memory }), "head");
    assert_eq!(in_memory(LmHeadMemory { hidden_size: 64, ..memory }), "head");
    let row = memory.bytes_per_row(VOCAB);
    assert_eq!(row, 2 * (1008 + 32) + 4 * 32);
    let wide = LmHeadMemory { logits_dtype: DType::F32, ..memory };
    assert_eq!(wide.bytes_per_row(VOCAB), row + 4 * 1008);
    for (dtype, logits_dtype, expected) in [
        (DType::BF16, DType::F16, "bf16 or f32"),
        (DType::F16, DType::BF16, "f16 or f32"),
        (DType::F32, DType::BF16, "f32"),
    ] {
        let memory = LmHeadMemory { dtype, logits_dtype, ..memory };
        assert_eq!(value(memory.workspace_bytes().unwrap_err()), ("logits_dtype", expected.into()));
    }
    assert_eq!(in_memory(LmHeadMemory { budget_bytes: row - 1, ..memory }), "budget_bytes");
    assert!(
        call.plan_in(&LmHeadWorkspace { memory: LmHeadMemory { budget_bytes: row, ..memory }, ..workspace })
            .is_ok()
    );
    for hidden_size in [0, 1 << 31] {
        let memory = LmHeadMemory { hidden_size, budget_bytes: usize::MAX, ..memory };
        assert_eq!(value(memory.workspace_bytes().unwrap_err()).0, "hidden_size");
        assert_eq!(
            refused(Call { head: DeviceLmHead { hidden_size, ..HEAD }, ..Call::new(ALL, 16) }).0,
            "hidden_size"
        );
    }
    let small = Capacity { rows: 15, ..call.rows().capacity() };
    assert_eq!(refused(Call { capacity: Some(small), ..Call::new(ALL, 16) }).0, "rows");

    let missing = Call { loss: None, ..Call::new(ALL, 16) };
    let because = "gradients are wanted";
    assert_eq!(missing.plan().unwrap_err(), Error::Missing { argument: "loss", because });
    let labels = LmHeadRows::new(&batch(), [1i64; 15][..].into()).unwrap_err();
    assert!(matches!(labels, Error::Length { argument: "labels", expected: 16, found: 15, .. }));
}

/// Logits of f32 get a bias of f32, and a gradient of the hidden states' type in a place of its own.
#[test]
fn logits_of_another_type_are_narrowed_once() {
    let head = DeviceLmHead { bias: Some(BIAS), ..HEAD };
    let call = Call { head, logits_dtype: Some(DType::F32), ..Call::new(ALL, 16) };
    let plan = call.plan().unwrap();
    let steps: Vec<_> = plan.steps().iter().map(name).collect();
    let expected = [
        "move_rows_bf16_to_f32", // the bias
        "zero 1024",
        "zero 16",
        "move_rows_bf16",
        "16 x 32 x 1003",
        "factored_f32",
        "move_rows_f32_to_bf16", // G
        "pair_loss",
        "row_coef",
        "bias_gradient_bf16",
        "move_rows_bf16",
        "clear_rows",
        "1003 x 16 x 32 added",
        "16 x 1003 x 32",
        "move_rows_f32_to_bf16",
        "token_results",
    ];
    assert_eq!(steps, expected);
    let products: Vec<&Product> = plan.products().collect();
    assert_eq!((products[0].out.dtype, products[0].left.matrix.dtype), (DType::F32, DType::BF16));
    assert!(products[0].bias.is_some_and(|bias| bias != BIAS));
    let gradient = products[1].left.matrix;
    assert_eq!((gradient.dtype, gradient), (DType::BF16, products[2].left.matrix));
    let logits = products[0].out;
    assert!(
        gradient.address >= logits.address + 4 * 16 * 1008
            || gradient.address + 2 * 16 * 1008 <= logits.address
    );
}

#[test]
fn coefficients_of_ones_own_are_checked() {
    let call = Call::new(ALL, 16);
    let inputs = DeviceLmHeadCoef {
        logsumexp: 0x4000,
        logsumexp_residual: Some(0x5000),
        coef: Some(0xc000),
        token_coef: None,
        entropy: None,
        threshold: 0.0,
    };
    let plan = |batch: HostBatch<'_>, inputs: &DeviceLmHeadCoef| {
        let rows = LmHeadRows::new(&batch, [7i64; 16][..].into()).unwrap();
        let workspace = call.workspace();
        plan::lm_head_backward(&H200, &rows, ENTRIES, VOCAB, &HEAD, inputs, &ALL, &workspace)
    };
    let steps: Vec<_> = plan(batch(), &inputs).unwrap().steps().iter().map(name).collect();
    let expected = [
        "move_rows_f32", // logsumexp and its residual, of the scored rows
        "move_rows_f32",
        "zero 1024",
        "move_rows_bf16",
        "16 x 32 x 1003",
        "row_coef",
        "backward_bf16",
        "bias_gradient_bf16",
        "move_rows_bf16",
        "clear_rows",
        "1003 x 16 x 32 added",
        "16 x 1003 x 32",
        "move_rows_f32_to_bf16",
    ];
    assert_eq!(steps, expected);
    let entropy = EntropyBuffers { coef: 0x2_0000, entropy: 0x3_0000 };
    let with_entropies = DeviceLmHeadCoef { entropy: Some(entropy), ..inputs };
    let steps: Vec<_> = plan(batch(), &with_entropies).unwrap().steps().iter().map(name).collect();
    // Entropies and their coefficients come with logsumexp; the gradient then has both coefficients in it.
    let gathered = ["move_rows_f32"; 4];
    let with = [&gathered[..], &expected[2..6], &["backward_entropy_bf16"], &expected[7..]].concat();
    assert_eq!(steps, with);
    for (argument, inputs) in [
        ("entropy", DeviceLmHeadCoef { entropy: Some(EntropyBuffers { entropy: 2, ..entropy }), ..inputs }),
        ("entropy_coef", DeviceLmHeadCoef { entropy: Some(EntropyBuffers { coef: 0, ..entropy }), ..inputs }),
        ("logsumexp", DeviceLmHeadCoef { logsumexp: 0, ..inputs }),
        ("logsumexp_residual", DeviceLmHeadCoef { logsumexp_residual: Some(2), ..inputs }),
        ("coef", DeviceLmHeadCoef { coef: Some(2), ..inputs }),
        ("token_coef", DeviceLmHeadCoef { token_coef: Some(2), ..inputs }),
        ("threshold", DeviceLmHeadCoef { threshold: -1.0, ..inputs }),
    ] {
        assert_eq!(value(plan(batch(), &inputs).unwrap_err()).0, argument);
    }
    let weighted = plan(HostBatch { ld_alpha: 0.5, ..batch() }, &inputs).unwrap_err();
    assert_eq!(weighted, Error::Missing { argument: "token_coef", because: "ld_alpha is not 1" });
}
