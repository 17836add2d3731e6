//! Every argument that an error names is a field or a parameter of the header.
//!
//! The test walks over calls that are wrong in one thing each, on the CPU and in plans for a GPU, and looks the names in
//! their errors up in the header. That the walk is complete is seen from the sources: whichever name they hand to an error
//! has been met on the way, or stands in [`UNREACHABLE`] with the reason.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::{CStr, c_void};
use std::path::Path;
use std::{fs, mem, ptr};

use dpo_kernels::loss::PairTensors;
use dpo_kernels::memory::Unallocated;
use dpo_kernels::{LogpsTensors, PairOutputTensors, TokenMetricTensors};

use crate::cpu::{dpo_cpu_backward, dpo_cpu_factored, dpo_cpu_forward, dpo_cpu_logps, dpo_cpu_pair_loss};
#[cfg(feature = "cuda")]
use crate::cuda::plans;
#[cfg(feature = "cuda")]
use crate::failure::guard;
use crate::failure::{dpo_last_error, header_name};
use crate::header::*;

const ROWS: usize = 4;
const SEQUENCES: usize = 2;
const VOCAB: usize = 3;

/// Structs of a batch of two padded sequences of two rows, and all that they point to.
struct Call {
    batch: dpo_batch,
    inputs: dpo_inputs,
    loss: dpo_loss,
    terms: Vec<dpo_loss_term>,
    pair_inputs: dpo_pair_inputs,
    out: dpo_logps,
    token_metrics: dpo_token_metrics,
    pair_outputs: dpo_pair_outputs,
    gradient: dpo_gradient,
    logps: *const f32,
    ref_logps: *const f32,
    scored: *const u32,
    factored: *mut c_void,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    workspace: *mut c_void,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    status: *mut dpo_status,
    memory: Memory,
}

/// What the structs point to: zeros at first, a place of its own for each pointer.
struct Memory {
    words: Vec<u64>,
    places: usize,
}

impl Memory {
    /// Words of a place: more than any buffer of the batch has.
    const PLACE: usize = 16;

    fn new() -> Self {
        Memory { words: vec![0; 64 * Memory::PLACE], places: 0 }
    }

    /// The next place.
    fn place<T>(&mut self) -> *mut T {
        self.places += 1;
        self.words[(self.places - 1) * Memory::PLACE..].as_mut_ptr().cast()
    }
}

impl Call {
    fn new() -> Box<Self> {
        let mut memory = Memory::new();
        // SAFETY: all fields are numbers and pointers, for which zeros are a value.
        let mut call = unsafe {
            Box::new(Call {
                batch: mem::zeroed(),
                inputs: mem::zeroed(),
                loss: mem::zeroed(),
                terms: vec![],
                pair_inputs: mem::zeroed(),
                out: mem::zeroed(),
                token_metrics: mem::zeroed(),
                pair_outputs: mem::zeroed(),
                gradient: mem::zeroed(),
                logps: memory.place(),
                ref_logps: ptr::null(),
                scored: memory.place(),
                factored: memory.place(),
                workspace: memory.place(),
                status: memory.place(),
                memory,
            })
        };
        macro_rules! sizes {
            ($($field:ident)*) => { $(call.$field.struct_size = size_of_val(&call.$field);)* };
        }
        sizes!(batch inputs loss pair_inputs out token_metrics pair_outputs gradient);
        macro_rules! point {
            ($($set:ident: $($field:ident)*;)*) => { $($(call.$set.$field = call.memory.place();)*)* };
        }
        point! {
            inputs: logits labels;
            out: logps status;
            pair_outputs: pair_losses chosen_rewards rejected_rewards margins coef metrics;
            gradient: logsumexp coef dlogits;
        }
        call.batch.vocab = VOCAB;
        call.batch.sequences = SEQUENCES;
        call.batch.sequence_len = ROWS / SEQUENCES;
        call.loss.beta = 0.1;
        call
    }

    /// A term of the loss, by name.
    fn term(&mut self, name: &'static CStr) -> &mut dpo_loss_term {
        self.terms.push(dpo_loss_term { name: name.as_ptr(), weight: 0.0, parameters: [0.0; 2], given: 0 });
        self.terms.last_mut().expect("just pushed")
    }

    /// What else `pair_loss` reads.
    fn with_inputs(&mut self) -> &mut dpo_pair_inputs {
        self.loss.inputs = &self.pair_inputs;
        &mut self.pair_inputs
    }

    /// Where token metrics go.
    fn with_metrics(&mut self) -> &mut dpo_token_metrics {
        self.out.metrics = &self.token_metrics;
        &mut self.token_metrics
    }

    /// Pairs by index.
    fn indexed(&mut self) -> &mut dpo_batch {
        self.batch.pairs = DPO_PAIRS_INDEXED;
        self.batch.pair_count = 1;
        self.batch.chosen = self.memory.place();
        self.batch.rejected = self.memory.place();
        &mut self.batch
    }

    /// Sequences by their ends, which are all 0 where the last should be [`ROWS`].
    fn packed(&mut self) -> &mut dpo_batch {
        self.batch.sequence_len = 0;
        self.batch.rows = ROWS;
        self.batch.cu_seqlens = self.memory.place();
        &mut self.batch
    }

    /// Calls one function of the header.
    fn run(&mut self, function: Function) -> dpo_result {
        if !self.terms.is_empty() {
            self.loss.terms = self.terms.as_ptr();
            self.loss.term_count = self.terms.len();
        }
        let Call { batch, inputs, loss, out, pair_outputs, gradient, .. } = &*self;
        let Call { logps, ref_logps, scored, factored, .. } = *self;
        #[cfg(feature = "cuda")]
        let Call { workspace, status, .. } = *self;
        #[cfg(feature = "cuda")]
        let device = &dpo_kernels::cuda::plan::Device {
            capability: (9, 0),
            multiprocessors: 132,
            shared_bytes_per_block: 232_448,
            l2_bytes: 50 << 20,
            cluster_blocks: 8,
        };
        // SAFETY: the structs are as the header asks, but for what is to be refused.
        unsafe {
            match function {
                Function::CpuLogps => dpo_cpu_logps(batch, inputs, out),
                Function::CpuPairLoss => {
                    dpo_cpu_pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs)
                }
                Function::CpuForward => dpo_cpu_forward(batch, inputs, ref_logps, loss, out, pair_outputs),
                Function::CpuFactored => {
                    dpo_cpu_factored(batch, inputs, ref_logps, loss, out, pair_outputs, factored)
                }
                Function::CpuBackward => dpo_cpu_backward(batch, inputs, gradient),
                #[cfg(feature = "cuda")]
                Function::CudaPairLoss => guard(|| {
                    plans::pair_loss(batch, logps, ref_logps, scored, loss, pair_outputs, status)?;
                    Ok(())
                }),
                #[cfg(feature = "cuda")]
                Function::CudaForward => guard(|| {
                    plans::forward(device, batch, inputs, ref_logps, loss, out, pair_outputs, workspace)?;
                    Ok(())
                }),
                #[cfg(feature = "cuda")]
                Function::CudaFactored => guard(|| {
                    plans::factored(
                        device,
                        batch,
                        inputs,
                        ref_logps,
                        loss,
                        out,
                        pair_outputs,
                        factored,
                        workspace,
                    )?;
                    Ok(())
                }),
                #[cfg(feature = "cuda")]
                Function::CudaBackward => guard(|| {
                    plans::backward(device, batch, inputs, gradient)?;
                    Ok(())
                }),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    CpuLogps,
    CpuPairLoss,
    CpuForward,
    CpuFactored,
    CpuBackward,
    #[cfg(feature = "cuda")]
    CudaPairLoss,
    #[cfg(feature = "cuda")]
    CudaForward,
    #[cfg(feature = "cuda")]
    CudaFactored,
    #[cfg(feature = "cuda")]
    CudaBackward,
}

use Function::*;

/// What the last refused call named: what stands before the colon.
fn named() -> String {
    // SAFETY: the message stays until the next failure on this thread.
    let message = unsafe { CStr::from_ptr(dpo_last_error()) }.to_str().expect("UTF-8");
    message.split(':').next().expect("there is a first part").to_string()
}

/// An address that no element is aligned to.
fn misaligned<T>() -> *mut T {
    ptr::without_provenance_mut(1)
}

/// A gradient that overlaps the logits.
fn inside_logits(call: &Call) -> *mut c_void {
    call.inputs.logits.cast_mut().wrapping_byte_add(8)
}

/// Wrong calls: the function, the argument that its error is to name, and what is wrong.
type Case = (Function, &'static str, fn(&mut Call));

/// A case for each of the fields, which is misaligned; or null, as `$wrong` has it.
macro_rules! each {
    ($wrong:expr; $function:expr; $(|$call:ident| $set:expr => $($field:ident)*);* $(;)?) => {
        [$($(
            ($function, stringify!($field), (|$call: &mut Call| { let set = $set; set.$field = $wrong }) as fn(&mut Call)),
        )*)*]
    };
}

/// Pointers that are judged alike on both sides.
fn pointers(logps: Function, forward: Function, backward: Function) -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    cases.extend(each!(misaligned(); forward;
        |call| &mut call.inputs => logits labels;
        |call| &mut call.out => logps scored token_logps logsumexp logsumexp_residual token_weights metrics status;
        |call| call.with_metrics() => entropy correct mean_logit sum_p2 sequence_log_weights mean;
        |call| &mut call.pair_outputs => pair_losses chosen_rewards rejected_rewards margins coef metrics;
        |call| &mut call.loss => inputs;
        |call| call.with_inputs() => lengths beta gamma weight label_smoothing sequence_log_weights normalizer;
        |call| call.indexed() => chosen rejected;
        |call| call => ref_logps;
    ));
    cases.extend(each!(misaligned(); logps; |call| call.packed() => cu_seqlens));
    cases.extend(each!(misaligned(); backward;
        |call| &mut call.gradient => logsumexp logsumexp_residual coef token_coef upstream nonfinite_row dlogits;
    ));
    let more: [Case; 5] = [
        (forward, "chosen_tokens", |call| {
            call.term(c"sft");
            call.with_inputs().chosen_tokens = misaligned();
        }),
        (forward, "kl_logps", |call| {
            call.term(c"kto");
            call.with_inputs().kl_count = 1;
            call.with_inputs().kl_logps = misaligned();
        }),
        (forward, "kl_ref_logps", |call| {
            call.term(c"kto");
            call.pair_inputs.kl_logps = call.memory.place();
            call.with_inputs().kl_count = 1;
            call.with_inputs().kl_ref_logps = misaligned();
        }),
        (forward, "desirable", |call| {
            call.term(c"sft");
            call.batch.pairs = DPO_PAIRS_UNPAIRED;
            call.batch.desirable = misaligned();
        }),
        (forward, "terms", |call| {
            call.loss.terms = misaligned();
            call.loss.term_count = 1;
        }),
    ];
    cases.extend(more);
    cases
}

/// Values that are judged alike on both sides.
fn values(forward: Function, pair_loss: Function, factored: Function, backward: Function) -> Vec<Case> {
    vec![
        (forward, "batch", |call| call.batch.struct_size -= 1),
        (forward, "inputs", |call| call.inputs.struct_size -= 1),
        (forward, "inputs", |call| call.with_inputs().struct_size -= 1),
        (forward, "loss", |call| call.loss.struct_size -= 1),
        (forward, "out", |call| call.out.struct_size -= 1),
        (forward, "metrics", |call| call.with_metrics().struct_size -= 1),
        (forward, "pair_outputs", |call| call.pair_outputs.struct_size -= 1),
        (pair_loss, "out", |call| call.pair_outputs.struct_size -= 1),
        (backward, "gradient", |call| call.gradient.struct_size -= 1),
        (forward, "dtype", |call| call.inputs.dtype = 9),
        (forward, "label_type", |call| call.inputs.label_type = 9),
        // The batch.
        (forward, "vocab", |call| call.batch.vocab = 0),
        (forward, "sequences", |call| call.batch.sequences = 0),
        (forward, "sequences", |call| call.batch.sequences = 3),
        (forward, "rows", |call| call.batch.sequence_len = 0),
        (forward, "rows", |call| call.batch.rows = ROWS),
        (forward, "rows", |call| call.packed().rows = 0),
        (forward, "sequence_len", |call| call.packed().sequence_len = 2),
        (forward, "cu_seqlens", |call| call.packed().sequences = 0),
        (forward, "label_alignment", |call| call.batch.label_alignment = 9),
        (forward, "pairs", |call| call.batch.pairs = 9),
        (forward, "pairs", |call| call.batch.pairs = DPO_PAIRS_NONE),
        (forward, "pair_count", |call| call.batch.pair_count = 1),
        (forward, "pair_count", |call| call.indexed().pair_count = 0),
        (forward, "chosen", |call| call.batch.chosen = call.memory.place()),
        (forward, "rejected", |call| call.batch.rejected = call.memory.place()),
        (forward, "desirable", |call| call.batch.desirable = call.memory.place()),
        (forward, "given", |call| call.batch.given = 1 << 31),
        (forward, "row_stride", |call| call.batch.row_stride = VOCAB),
        (forward, "row_stride", |call| {
            call.batch.given = DPO_BATCH_ROW_STRIDE;
            call.batch.row_stride = VOCAB - 1;
        }),
        (forward, "ignore_index", |call| call.batch.ignore_index = -100),
        (forward, "ld_alpha", |call| call.batch.ld_alpha = 0.5),
        (forward, "ld_alpha", |call| {
            call.batch.given = DPO_BATCH_LD_ALPHA;
            call.batch.ld_alpha = 2.0;
        }),
        (forward, "given", |call| call.batch.transform.given = 1 << 31),
        (forward, "transform.scale", |call| call.batch.transform.scale = 2.0),
        (forward, "transform.scale", |call| call.batch.transform.given = DPO_TRANSFORM_SCALE),
        (forward, "transform.softcap", |call| call.batch.transform.given = DPO_TRANSFORM_SOFTCAP),
        (forward, "transform.valid_vocab", |call| call.batch.transform.given = DPO_TRANSFORM_VALID_VOCAB),
        (factored, "transform", |call| {
            call.batch.transform.given = DPO_TRANSFORM_SCALE;
            call.batch.transform.scale = 2.0;
        }),
        (factored, "metrics", |call| {
            call.token_metrics.entropy = call.memory.place();
            call.with_metrics();
        }),
        (factored, "gradient", |call| call.factored = misaligned()),
        (factored, "gradient", |call| call.factored = inside_logits(call)),
        // The loss.
        (forward, "beta", |call| call.loss.beta = 0.0),
        (forward, "given", |call| call.loss.given = 1 << 31),
        (forward, "term_count", |call| call.loss.term_count = 1),
        (forward, "term_count", |call| (0..5).for_each(|_| _ = call.term(c"sigmoid"))),
        (forward, "terms", |call| (0..3).for_each(|_| _ = call.term(c"cpo"))),
        (forward, "name", |call| call.term(c"").name = ptr::null()),
        (forward, "name", |call| _ = call.term(c"dpo")),
        (forward, "given", |call| call.term(c"kto").given = 1 << 31),
        (forward, "weight", |call| call.term(c"hinge").given = DPO_TERM_WEIGHT),
        (forward, "parameters[0]", |call| call.term(c"kto").given = DPO_TERM_PARAMETER_0),
        (forward, "parameters[1]", |call| call.term(c"kto").given = DPO_TERM_PARAMETER_1),
        (forward, "parameters[0]", |call| call.term(c"discopop").given = DPO_TERM_PARAMETER_0),
        (forward, "parameters[0]", |call| {
            let term = call.term(c"simpo");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [-1.0, 0.0]);
        }),
        (forward, "parameters[0]", |call| {
            let term = call.term(c"cpo");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [-1.0, 0.0]);
        }),
        (forward, "parameters[1]", |call| call.term(c"cpo").given = DPO_TERM_PARAMETER_1),
        (forward, "loss", |call| {
            call.term(c"sigmoid");
            call.term(c"cpo");
        }),
        (forward, "gamma", |call| call.loss.gamma = 1.0),
        (forward, "gamma", |call| {
            call.loss.given = DPO_LOSS_GAMMA;
            call.loss.gamma = f64::NAN;
        }),
        (forward, "label_smoothing", |call| {
            call.loss.given = DPO_LOSS_LABEL_SMOOTHING;
            call.loss.label_smoothing = 2.0;
        }),
        (forward, "baseline", |call| call.loss.given = DPO_LOSS_BASELINE),
        (forward, "length_normalized", |call| call.loss.length_normalized = 2),
        (forward, "divergence", |call| call.loss.divergence = 9),
        (forward, "divergence", |call| {
            call.term(c"nca_pair");
            call.loss.divergence = DPO_FORWARD_KL;
        }),
        (forward, "alpha", |call| call.loss.given = DPO_LOSS_ALPHA),
        (forward, "alpha", |call| call.loss.divergence = DPO_ALPHA_DIVERGENCE),
        (forward, "normalized_by", |call| call.loss.normalized_by = 9),
        (forward, "normalizer", |call| call.loss.given = DPO_LOSS_NORMALIZER),
        (forward, "normalizer", |call| {
            call.loss.normalized_by = DPO_BY_TOKENS;
            call.loss.given = DPO_LOSS_NORMALIZER;
        }),
        // What it is given.
        (forward, "ref_logps", |call| {
            call.term(c"simpo");
            call.ref_logps = call.memory.place();
        }),
        (forward, "label_smoothing", |call| {
            call.term(c"hinge");
            call.pair_inputs.label_smoothing = call.memory.place();
            call.with_inputs();
        }),
        (forward, "weight", |call| {
            call.term(c"aot");
            call.pair_inputs.weight = call.memory.place();
            call.with_inputs();
        }),
        (forward, "kl_count", |call| call.with_inputs().kl_count = 1),
        (forward, "kl_ref_logps", |call| {
            call.pair_inputs.kl_ref_logps = call.memory.place();
            call.with_inputs();
        }),
        (forward, "kl_logps", |call| _ = call.term(c"kto")),
        (forward, "chosen_tokens", |call| {
            call.pair_inputs.chosen_tokens = call.memory.place();
            call.with_inputs();
        }),
        (pair_loss, "lengths", |call| {
            call.loss.length_normalized = 1;
            call.scored = ptr::null();
        }),
        (pair_loss, "scored", |call| {
            call.loss.normalized_by = DPO_BY_TOKENS;
            call.scored = ptr::null();
        }),
        (pair_loss, "scored", |call| call.scored = misaligned()),
        (pair_loss, "logps", |call| call.logps = ptr::null()),
        // The gradient.
        (backward, "given", |call| call.gradient.given = 1 << 31),
        (backward, "upstream_scale", |call| call.gradient.upstream_scale = 1.0),
        (backward, "threshold", |call| {
            call.gradient.given = DPO_GRADIENT_THRESHOLD;
            call.gradient.threshold = -1.0;
        }),
        (backward, "token_coef", |call| call.batch.given = DPO_BATCH_LD_ALPHA),
        (backward, "dlogits", |call| call.gradient.dlogits = inside_logits(call)),
    ]
}

/// What only host memory can tell.
fn host_values() -> Vec<Case> {
    vec![
        (CpuForward, "cu_seqlens[2]", |call| _ = call.packed()),
        (CpuForward, "rejected[0]", |call| {
            let (rejected, place) = (call.indexed().rejected, call.memory.places - 1);
            assert_eq!(rejected, call.memory.words[place * Memory::PLACE..].as_ptr().cast());
            call.memory.words[place * Memory::PLACE] = 7;
        }),
        (CpuForward, "beta", |call| {
            call.pair_inputs.beta = call.memory.place();
            call.with_inputs();
        }),
    ]
}

/// What only the kernels cannot do.
#[cfg(feature = "cuda")]
fn device_values() -> Vec<Case> {
    vec![
        (CudaForward, "workspace", |call| call.workspace = ptr::null_mut()),
        (CudaPairLoss, "status", |call| call.status = ptr::null_mut()),
        (CudaForward, "parameters", |call| {
            let term = call.term(c"discopop");
            (term.given, term.parameters) = (DPO_TERM_PARAMETER_0, [1e-300, 0.0]);
        }),
        (CudaForward, "beta", |call| call.loss.beta = 1e-300),
        (CudaForward, "alpha", |call| {
            call.loss.divergence = DPO_ALPHA_DIVERGENCE;
            (call.loss.given, call.loss.alpha) = (DPO_LOSS_ALPHA, 1e300);
        }),
    ]
}

/// Every case.
fn cases() -> Vec<Case> {
    let mut cases = pointers(CpuLogps, CpuForward, CpuBackward);
    cases.extend(values(CpuForward, CpuPairLoss, CpuFactored, CpuBackward));
    cases.extend(host_values());
    #[cfg(feature = "cuda")]
    {
        cases.extend(pointers(CudaForward, CudaForward, CudaBackward));
        cases.extend(values(CudaForward, CudaPairLoss, CudaFactored, CudaBackward));
        cases.extend(device_values());
    }
    cases
}

/// The names of fields and parameters in the header: what stands before the end of a declaration.
fn header_names() -> BTreeSet<String> {
    let header = include_str!("../include/dpo_kernels.h");
    let mut code = String::new();
    for (place, part) in header.split("/*").enumerate() {
        code += if place == 0 { part } else { part.split_once("*/").expect("comments end").1 };
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ends = code.match_indices([';', ',', ')', '[']);
    let names = ends.map(|(end, _)| code[..end].trim_end().rsplit(|c| !is_name(c)).next().expect("a part"));
    // Types and functions have the prefix, enumerators and constants are in capitals, lengths are numbers.
    names
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.starts_with("dpo_"))
        .map(String::from)
        .collect()
}

/// What of the crate no call of the header reaches.
const OTHERS: [&str; 4] = ["theory.rs", "ref_cache.rs", "reference.rs", "pass"];

/// Names that are given to errors, but not to any that C can be given.
const UNREACHABLE: [(&str, &str); 2] = [
    ("logsumexp.values", "a length, and slices of the caller's are as long as they must be"),
    ("logsumexp.residual", "likewise"),
];

/// Functions whose first argument is the name of an argument that they may find wrong.
const JUDGES: [&str; 17] = [
    "value",
    "check_len",
    "check_len_at_least",
    "check_positive",
    "check_from_zero",
    "check_logits",
    "check_gradient",
    "check_takes_gamma",
    "check_is_kto",
    "within",
    "alike",
    "all",
    "missing",
    "address",
    "optional",
    "single",
    "finite",
];

/// The names that sources of the crate give to errors.
fn names_in_sources(path: &Path, names: &mut BTreeSet<String>) {
    if OTHERS.iter().any(|other| path.ends_with(other)) || (!cfg!(feature = "cuda") && path.ends_with("cuda"))
    {
        return;
    }
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder of the crate");
        entries.for_each(|entry| names_in_sources(&entry.expect("an entry").path(), names));
        return;
    }
    let source = fs::read_to_string(path).expect("a source of the crate");
    let mut parts = source.split('"');
    let mut before = parts.next().expect("a first part");
    while let (Some(literal), Some(after)) = (parts.next(), parts.next()) {
        let before_it = before.trim_end();
        // The last word before the parenthesis, where the literal is the first argument of a call.
        let call = before_it.strip_suffix('(');
        let called = call.and_then(|call| call.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next());
        if before_it.ends_with("argument:") || called.is_some_and(|called| JUDGES.contains(&called)) {
            names.insert(literal.to_string());
        }
        before = after;
    }
}

/// The names of what `pair_loss` reads besides log-probs.
fn pair_input_names() -> Vec<String> {
    let all = PairTensors {
        ref_logps: Some(()),
        lengths: Some(()),
        beta: Some(()),
        gamma: Some(()),
        weight: Some(()),
        label_smoothing: Some(()),
        sequence_log_weights: Some(()),
        kl_logps: Some(()),
        kl_ref_logps: Some(()),
        normalizer: Some(()),
        chosen_tokens: Some(()),
    };
    let names = RefCell::new(vec![]);
    let name = |name: &str, (): ()| {
        names.borrow_mut().push(name.to_string());
        Ok::<(), Infallible>(())
    };
    let Ok(_) = all.try_map(name, name, name);
    names.into_inner()
}

#[test]
fn errors_name_fields_and_parameters_of_the_header() {
    let header = header_names();
    for expected in ["struct_size", "logits", "valid_vocab", "parameters", "pair_outputs", "bytes"] {
        assert!(header.contains(expected), "{expected} in {header:?}");
    }
    let mut met = BTreeSet::new();
    for (function, argument, make_wrong) in cases() {
        let mut call = Call::new();
        make_wrong(&mut call);
        let before = call.memory.words.clone();
        let result = call.run(function);
        let refused = [DPO_ERROR_VALUE, DPO_ERROR_INDEX, DPO_ERROR_MISSING].contains(&result);
        assert!(refused, "{function:?}: {result} where {argument} is wrong");
        assert_eq!(named(), argument, "{function:?}");
        assert!(call.memory.words == before, "{function:?} wrote where {argument} is wrong");

        let name = argument.split('[').next().expect("a first part");
        assert!(
            name.split('.').all(|part| header.contains(part)),
            "{function:?}: {argument} is not in the header"
        );
        met.insert(name);
    }

    let mut names = BTreeSet::new();
    names_in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src"), &mut names);
    assert!(names.contains("row_stride"), "{names:?}");
    let results = [
        LogpsTensors::<Unallocated<f32>>::FIELDS,
        TokenMetricTensors::<Unallocated<f32>>::FIELDS,
        PairOutputTensors::<Unallocated<f32>>::FIELDS,
    ];
    names.extend(results.into_iter().flatten().map(|field| field.name.to_string()));
    names.extend(pair_input_names());
    let unmet: Vec<_> = names
        .iter()
        .map(|name| header_name(name).unwrap_or(name))
        .filter(|name| !met.contains(name) && !UNREACHABLE.iter().any(|(other, _)| other == name))
        .collect();
    assert!(unmet.is_empty(), "errors name {unmet:?}, which no case here provokes");
}

/// What is called wrong above is wrong in one thing alone.
#[test]
fn calls_are_right_but_for_what_a_case_changes() {
    let functions = [CpuLogps, CpuPairLoss, CpuForward, CpuFactored, CpuBackward];
    #[cfg(feature = "cuda")]
    let functions = [&functions[..], &[CudaPairLoss, CudaForward, CudaFactored, CudaBackward]].concat();
    for function in functions {
        assert_eq!(Call::new().run(function), DPO_OK, "{function:?}: {}", named());
    }
}
