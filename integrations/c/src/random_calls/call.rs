//! The structs and buffers of a call that says what a description does.

use std::ffi::c_void;
use std::ptr;

use dpo_kernels::loss::{Divergence, MAX_PARAMETERS, Normalizer};
use dpo_kernels::{
    Batch, DType, IGNORE_INDEX, LabelAlignment, LabelType, Logit, Pairs, Sequences, reference,
};

use super::description::{Description, Place};
use super::draw::METRICS;
use super::head_call::HeadStructs;
use super::head_verdict;
use super::memory::{Buffer, Memory};
use super::random::Random;
use crate::calls::{Arguments, Stage};
use crate::cpu::with_logit;
use crate::header::*;

/// The structs of the header as they will be handed over, and where the results are to be.
#[derive(Clone)]
pub struct Call {
    pub stage: Stage,
    pub batch: dpo_batch,
    pub inputs: dpo_inputs,
    pub loss: dpo_loss,
    pub terms: Vec<dpo_loss_term>,
    /// Handed over if the loss has any.
    pub pair_inputs: Option<dpo_pair_inputs>,
    pub out: dpo_logps,
    pub token_metrics: Option<dpo_token_metrics>,
    pub pair_outputs: dpo_pair_outputs,
    pub gradient: dpo_gradient,
    pub workspace: dpo_workspace,
    /// Handed over behind a head.
    pub head: Option<HeadStructs>,
    /// The structs apart.
    pub arguments: Arguments,
    /// Addresses that structs are said to be at and are not.
    pub wrong_addresses: Vec<(Struct, usize)>,
    pub results: Results,
}

/// A struct of the header, or an array of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Struct {
    Batch,
    Inputs,
    Loss,
    Terms,
    PairInputs,
    Out,
    TokenMetrics,
    PairOutputs,
    Gradient,
    Workspace,
    Head,
    BackwardInputs,
    Gradients,
    HeadWorkspace,
}

/// Where the results of a call are; `None` was not asked for.
#[derive(Clone, Copy, Default)]
pub struct Results {
    pub logps: Option<Buffer>,
    pub scored: Option<Buffer>,
    pub token_logps: Option<Buffer>,
    pub logsumexp: Option<Buffer>,
    pub logsumexp_residual: Option<Buffer>,
    pub token_weights: Option<Buffer>,
    pub status: Option<Buffer>,
    pub entropy: Option<Buffer>,
    pub correct: Option<Buffer>,
    pub mean_logit: Option<Buffer>,
    pub sum_p2: Option<Buffer>,
    pub sequence_log_weights: Option<Buffer>,
    pub mean: Option<Buffer>,
    pub pair_losses: Option<Buffer>,
    pub chosen_rewards: Option<Buffer>,
    pub rejected_rewards: Option<Buffer>,
    pub margins: Option<Buffer>,
    pub coef: Option<Buffer>,
    pub metrics: Option<Buffer>,
    pub nonfinite_row: Option<Buffer>,
    /// dlogits, or factored's gradient.
    pub gradient: Option<Buffer>,
    pub gradient_of_hidden: Option<Buffer>,
    pub gradient_of_weight: Option<Buffer>,
    pub gradient_of_bias: Option<Buffer>,
    pub plan: Option<Buffer>,
}

/// log Σ exp of each row, in two numbers as `backward` takes it: what `logps` gives where it gives anything.
pub fn logsumexp(description: &Description) -> (Vec<f32>, Vec<f32>) {
    let rows = description.labels.len();
    if description.head.is_some() {
        return head_verdict::logsumexp(description);
    }
    let found = with_logit!(description.dtype, T => {
        let logits: Vec<T> = description.logits.iter().map(|&z| T::from_f32(z)).collect();
        description.with_labels(|labels| reference::logps(&description.host_batch(), &logits, labels))
    });
    let values = found.map_or(vec![0.0; rows], |logps| logps.logsumexp);
    let rounded: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let residual = values.iter().zip(&rounded).map(|(value, &rounded)| (value - f64::from(rounded)) as f32);
    let residual = residual.map(|residual| if residual.is_finite() { residual } else { 0.0 }).collect();
    (rounded, residual)
}

/// The header's name of a type.
pub(super) fn enumerator(dtype: DType) -> dpo_dtype {
    match dtype {
        DType::F32 => DPO_F32,
        DType::F16 => DPO_F16,
        DType::BF16 => DPO_BF16,
    }
}

/// A struct of zeros that says its size.
macro_rules! sized {
    ($type:ty) => {{
        // SAFETY: the structs of the header are numbers and pointers, for which zeros are a value.
        let mut set: $type = unsafe { std::mem::zeroed() };
        set.struct_size = size_of::<$type>();
        set
    }};
}
pub(super) use sized;

impl Call {
    /// The call that says what `description` does.
    pub fn new(description: &Description, memory: &mut Memory, random: &mut Random) -> Self {
        memory.clear();
        Layout { memory, random, description }.call()
    }

    /// Puts the structs where they are handed over from, each with no more bytes than it says it has.
    pub fn hand_over(&mut self, memory: &mut Memory, random: &mut Random) -> Arguments {
        macro_rules! placed {
            ($struct:ident, $name:literal, $set:expr) => {{
                let bytes = $set.struct_size.clamp(size_of::<usize>(), size_of_val($set));
                let buffer = memory.structs($name, std::slice::from_ref($set), bytes, random);
                match self.wrong_addresses.iter().find(|(wrong, _)| *wrong == Struct::$struct) {
                    Some(&(_, address)) => ptr::without_provenance_mut(address),
                    None => memory.address(buffer),
                }
            }};
        }
        if let Some(pair_inputs) = &self.pair_inputs {
            self.loss.inputs = placed!(PairInputs, "inputs", pair_inputs);
        }
        if let Some(token_metrics) = &self.token_metrics {
            self.out.metrics = placed!(TokenMetrics, "metrics", token_metrics);
        }
        if !self.terms.is_empty() {
            let buffer = memory.structs("terms", &self.terms, size_of_val(&self.terms[..]), random);
            self.loss.terms = match self.wrong_addresses.iter().find(|(wrong, _)| *wrong == Struct::Terms) {
                Some(&(_, address)) => ptr::without_provenance(address),
                None => memory.address(buffer),
            };
        }
        if let Some(HeadStructs { head, inputs, gradients, workspace, on_gpu, .. }) = &mut self.head {
            self.arguments.head = placed!(Head, "head", &*head);
            // Where the workspace has the budget.
            let is_given = head.given & DPO_LM_HEAD_BUDGET_BYTES != 0;
            let budget_bytes = if is_given { 0 } else { head.budget_bytes };
            let without =
                dpo_lm_head { given: head.given & !DPO_LM_HEAD_BUDGET_BYTES, budget_bytes, ..*head };
            *on_gpu = placed!(Head, "head on a GPU", &without);
            self.arguments.cuda_head_workspace = placed!(HeadWorkspace, "workspace of a head", &*workspace);
            self.arguments.backward_inputs = placed!(BackwardInputs, "inputs", &*inputs);
            if let Some(gradients) = gradients {
                self.arguments.gradients = placed!(Gradients, "gradients", &*gradients);
            }
        }
        let has_loss = self.head.as_ref().is_none_or(|head| head.has_loss);
        Arguments {
            batch: placed!(Batch, "batch", &self.batch),
            inputs: placed!(Inputs, "inputs", &self.inputs),
            loss: if has_loss { placed!(Loss, "loss", &self.loss) } else { ptr::null() },
            out: placed!(Out, "out", &self.out),
            pair_outputs: placed!(PairOutputs, "pair_outputs", &self.pair_outputs),
            gradient: placed!(Gradient, "gradient", &self.gradient),
            workspace: placed!(Workspace, "workspace", &self.workspace),
            ..self.arguments
        }
    }
}

/// Lays a call out.
pub(super) struct Layout<'a> {
    pub memory: &'a mut Memory,
    pub random: &'a mut Random,
    pub description: &'a Description,
}

impl Layout<'_> {
    fn call(mut self) -> Call {
        let description = self.description;
        let mut results = Results::default();
        let (logits, gradient) = self.logits_and_gradient(&mut results);
        let (scored, status) =
            (description.scored.as_deref(), self.memory.output::<dpo_status>("status", 1, self.random));
        let arguments = Arguments {
            batch: ptr::null(),
            inputs: ptr::null(),
            loss: ptr::null(),
            out: ptr::null(),
            pair_outputs: ptr::null(),
            gradient: ptr::null(),
            logps: self.input("logps", &description.logps),
            ref_logps: self.optional("ref_logps", description.inputs.ref_logps.as_deref()),
            scored: self.optional("scored", scored),
            factored: gradient,
            workspace: ptr::null(),
            status: self.memory.address(status),
            head: ptr::null(),
            backward_inputs: ptr::null(),
            gradients: ptr::null(),
            head_workspace: ptr::null_mut(),
            cuda_head_workspace: ptr::null(),
            plan: self.output("plan", 1, &mut results.plan),
        };
        results.status = Some(status);
        let (terms, mut loss) = (self.terms(), self.loss());
        loss.term_count = terms.len();
        Call {
            stage: description.stage,
            batch: self.batch(),
            inputs: self.inputs(logits),
            loss,
            terms,
            pair_inputs: self.pair_inputs(),
            token_metrics: self.token_metrics(&mut results),
            out: self.out(&mut results),
            pair_outputs: self.pair_outputs(&mut results),
            gradient: self.gradient(gradient, &mut results),
            workspace: self.workspace(),
            head: self.head(&mut results),
            arguments,
            wrong_addresses: vec![],
            results,
        }
    }

    pub fn input<T: Copy>(&mut self, name: &'static str, values: &[T]) -> *const T {
        let buffer = self.memory.input(name, values, self.random);
        self.memory.address(buffer)
    }

    /// Null for nothing.
    pub fn optional<T: Copy>(&mut self, name: &'static str, values: Option<&[T]>) -> *const T {
        values.map_or(ptr::null(), |values| self.input(name, values))
    }

    pub fn output<T>(&mut self, name: &'static str, len: usize, result: &mut Option<Buffer>) -> *mut T {
        let buffer = self.memory.output::<T>(name, len, self.random);
        *result = Some(buffer);
        self.memory.address(buffer)
    }

    /// An output that may be left out; there is a buffer of its own for it in any case, which nothing may
    /// write then.
    fn optional_output<T>(&mut self, name: &'static str, len: usize, result: &mut Option<Buffer>) -> *mut T {
        let address = self.output(name, len, result);
        if self.description.wants(name) {
            return address;
        }
        *result = None;
        ptr::null_mut()
    }

    /// The addresses of the logits and of their gradient.
    fn logits_and_gradient(&mut self, results: &mut Results) -> (*const c_void, *mut c_void) {
        let description = self.description;
        with_logit!(description.dtype, T => {
            let logits: Vec<T> = description.logits.iter().map(|&z| T::from_f32(z)).collect();
            let writes = matches!(description.stage, Stage::Factored | Stage::Backward);
            let place = if writes { description.gradient.place } else { Place::Apart };
            let bytes = size_of_val(&logits[..]);
            let (at, gradient) = match place {
                Place::Apart | Place::Overlapping(_) => {
                    let logits = self.memory.input("logits", &logits, self.random);
                    let gradient = self.memory.output::<T>("gradient", description.logits.len(), self.random);
                    (logits, gradient)
                }
                Place::Logits => {
                    let both = self.memory.in_and_out("logits", &logits, self.random);
                    (both, both)
                }
                Place::Behind => {
                    let twice = [&logits[..], &logits[..]].concat();
                    let both = self.memory.in_and_out("logits", &twice, self.random);
                    (both.part(0, bytes), both.part(bytes, bytes))
                }
            };
            results.gradient = Some(gradient);
            let (logits, gradient) = (self.memory.address::<T>(at), self.memory.address::<T>(gradient));
            match place {
                Place::Overlapping(by) => (logits.cast_const().cast(), logits.wrapping_offset(by).cast()),
                _ => (logits.cast_const().cast(), gradient.cast()),
            }
        })
    }

    fn batch(&mut self) -> dpo_batch {
        let Batch { vocab, row_stride, ref sequences, ref pairs, .. } = self.description.batch;
        let Batch { label_alignment, ignore_index, transform, ld_alpha, .. } = self.description.batch;
        let mut batch = sized!(dpo_batch);
        batch.vocab = vocab;
        match sequences {
            Sequences::Padded { count, len } => (batch.sequences, batch.sequence_len) = (*count, *len),
            Sequences::Packed { cu_seqlens, rows } => {
                (batch.sequences, batch.rows) = (cu_seqlens.len() - 1, *rows);
                batch.cu_seqlens = self.input("cu_seqlens", cu_seqlens);
            }
        }
        batch.pairs = match pairs {
            Pairs::Concatenated => DPO_PAIRS_CONCATENATED,
            Pairs::Interleaved => DPO_PAIRS_INTERLEAVED,
            Pairs::None => DPO_PAIRS_NONE,
            Pairs::Indexed { chosen, rejected } => {
                batch.pair_count = chosen.len();
                batch.chosen = self.input("chosen", chosen);
                batch.rejected = self.input("rejected", rejected);
                DPO_PAIRS_INDEXED
            }
            Pairs::Unpaired { desirable } => {
                batch.desirable = self.input("desirable", desirable);
                DPO_PAIRS_UNPAIRED
            }
        };
        batch.label_alignment = match label_alignment {
            LabelAlignment::Aligned => DPO_ALIGNED,
            LabelAlignment::NextToken => DPO_NEXT_TOKEN,
        };
        // A default may be given as a number, too.
        let mut give = |given: &mut u32, bit: u32, is_default: bool| {
            let gives = !is_default || self.random.below(4) == 0;
            *given |= if gives { bit } else { 0 };
            gives
        };
        if row_stride != vocab || !self.description.stage.is_behind_head() {
            let is_given = give(&mut batch.given, DPO_BATCH_ROW_STRIDE, row_stride == vocab);
            batch.row_stride = if is_given { row_stride } else { 0 };
        }
        if give(&mut batch.given, DPO_BATCH_IGNORE_INDEX, ignore_index == IGNORE_INDEX) {
            batch.ignore_index = ignore_index;
        }
        if give(&mut batch.given, DPO_BATCH_LD_ALPHA, ld_alpha == 1.0) {
            batch.ld_alpha = ld_alpha;
        }
        let to = &mut batch.transform;
        if give(&mut to.given, DPO_TRANSFORM_SCALE, transform.scale == 1.0) {
            to.scale = transform.scale;
        }
        if let Some(softcap) = transform.softcap {
            to.given |= DPO_TRANSFORM_SOFTCAP;
            to.softcap = softcap;
        }
        if let Some(valid_vocab) = transform.valid_vocab {
            to.given |= DPO_TRANSFORM_VALID_VOCAB;
            to.valid_vocab = valid_vocab;
        }
        batch
    }

    fn inputs(&mut self, logits: *const c_void) -> dpo_inputs {
        let mut inputs = sized!(dpo_inputs);
        inputs.dtype = enumerator(self.description.dtype);
        inputs.logits = logits;
        (inputs.label_type, inputs.labels) = self.labels();
        inputs
    }

    pub fn labels(&mut self) -> (dpo_label_type, *const c_void) {
        let description = self.description;
        match description.label_type {
            LabelType::I64 => (DPO_LABELS_I64, self.input("labels", &description.labels).cast()),
            LabelType::I32 => {
                let labels: Vec<i32> = description.labels.iter().map(|&label| label as i32).collect();
                (DPO_LABELS_I32, self.input("labels", &labels).cast())
            }
        }
    }

    /// For the batch, or larger ones too.
    fn workspace(&mut self) -> dpo_workspace {
        let batch = self.description.host_batch();
        let mut room = |count: usize| count.saturating_add(self.random.pick(&[0, 1, 1000]));
        let mut workspace = sized!(dpo_workspace);
        workspace.sequences = room(batch.sequences.count());
        workspace.rows = room(batch.rows());
        workspace.vocab = room(batch.vocab);
        // It is not followed: what plans are made for does not run here.
        workspace.memory = ptr::without_provenance_mut(1 << 20);
        workspace
    }

    fn terms(&mut self) -> Vec<dpo_loss_term> {
        let description = self.description;
        let term = |term: &super::description::Term| {
            let name = [&term.name[..], b"\0"].concat();
            let mut to = dpo_loss_term {
                name: self.input("name", &name).cast(),
                weight: term.weight.unwrap_or(0.0),
                beta: term.beta.unwrap_or(0.0),
                parameters: term.parameters.map(|parameter| parameter.unwrap_or(0.0)),
                given: 0,
            };
            let bits = [DPO_TERM_WEIGHT, DPO_TERM_BETA, DPO_TERM_PARAMETER_0, DPO_TERM_PARAMETER_1];
            let [first, second] = term.parameters;
            for (bit, there) in bits.into_iter().zip([term.weight, term.beta, first, second]) {
                to.given |= if there.is_some() { bit } else { 0 };
            }
            to
        };
        const { assert!(MAX_PARAMETERS == 2) };
        description.loss.terms.iter().map(term).collect()
    }

    fn loss(&mut self) -> dpo_loss {
        let from = &self.description.loss;
        let mut loss = sized!(dpo_loss);
        loss.beta = from.beta;
        let mut give = |bit: u32, to: &mut f64, number: Option<f64>| {
            if let Some(number) = number {
                *to = number;
                loss.given |= bit;
            }
        };
        give(DPO_LOSS_LABEL_SMOOTHING, &mut loss.label_smoothing, from.label_smoothing);
        give(DPO_LOSS_GAMMA, &mut loss.gamma, from.gamma);
        give(DPO_LOSS_BASELINE, &mut loss.baseline, from.baseline);
        let alpha = if let Divergence::Alpha(alpha) = from.divergence { Some(alpha) } else { None };
        give(DPO_LOSS_ALPHA, &mut loss.alpha, alpha);
        let number = if let Normalizer::Number(number) = from.normalizer { Some(number) } else { None };
        give(DPO_LOSS_NORMALIZER, &mut loss.normalizer, number);
        loss.divergence = match from.divergence {
            Divergence::ReverseKl => DPO_REVERSE_KL,
            Divergence::ForwardKl => DPO_FORWARD_KL,
            Divergence::JensenShannon => DPO_JENSEN_SHANNON,
            Divergence::Alpha(_) => DPO_ALPHA_DIVERGENCE,
        };
        loss.normalized_by = if from.normalizer == Normalizer::Tokens { DPO_BY_TOKENS } else { DPO_BY_PAIRS };
        loss.length_normalized = from.length_normalized.into();
        loss.wpo_weights = from.wpo_weights.into();
        loss.reference_free = from.reference_free.into();
        loss
    }

    /// None where there is nothing in it, or zeros.
    fn pair_inputs(&mut self) -> Option<dpo_pair_inputs> {
        let from = &self.description.inputs;
        let mut to = sized!(dpo_pair_inputs);
        macro_rules! optional {
            ($($name:ident)*) => { $(to.$name = self.optional(stringify!($name), from.$name.as_deref());)* };
        }
        optional!(lengths beta gamma weight label_smoothing sequence_log_weights kl_logps kl_ref_logps);
        to.kl_count = from.kl_logps.as_ref().map_or(0, Vec::len);
        to.normalizer = self.optional("normalizer", from.normalizer.as_ref().map(std::slice::from_ref));
        to.chosen_tokens =
            self.optional("chosen_tokens", from.chosen_tokens.as_ref().map(std::slice::from_ref));
        let nothing = super::description::Tensors { ref_logps: from.ref_logps.clone(), ..Default::default() };
        (*from != nothing || self.random.below(4) == 0).then_some(to)
    }

    fn out(&mut self, results: &mut Results) -> dpo_logps {
        let (rows, sequences) = (self.description.labels.len(), self.description.logps.len());
        let mut out = sized!(dpo_logps);
        out.logps = self.output("logps", sequences, &mut results.logps);
        out.scored = self.optional_output("scored", sequences, &mut results.scored);
        macro_rules! of_rows {
            ($($name:ident)*) => {
                $(out.$name = self.optional_output(stringify!($name), rows, &mut results.$name);)*
            };
        }
        of_rows!(token_logps logsumexp logsumexp_residual token_weights);
        out.status = self.status(results);
        out
    }

    /// Of `logps`, and of `pair_loss`: there is one status.
    fn status(&mut self, results: &Results) -> *mut dpo_status {
        self.memory.address(results.status.expect("every call has one"))
    }

    /// None where none is wanted, or zeros.
    fn token_metrics(&mut self, results: &mut Results) -> Option<dpo_token_metrics> {
        let (rows, sequences) = (self.description.labels.len(), self.description.logps.len());
        let mut to = sized!(dpo_token_metrics);
        macro_rules! of_rows {
            ($($name:ident)*) => {
                $(to.$name = self.optional_output(stringify!($name), rows, &mut results.$name);)*
            };
        }
        of_rows!(entropy correct mean_logit sum_p2);
        let log_weights = &mut results.sequence_log_weights;
        to.sequence_log_weights = self.optional_output("sequence_log_weights", sequences, log_weights);
        to.mean = self.optional_output("mean", 1, &mut results.mean);
        let is_wanted = METRICS.iter().any(|name| self.description.wants(name));
        (is_wanted || self.random.below(4) == 0).then_some(to)
    }

    fn pair_outputs(&mut self, results: &mut Results) -> dpo_pair_outputs {
        let (pairs, sequences) = (self.description.pair_count(), self.description.logps.len());
        let mut to = sized!(dpo_pair_outputs);
        macro_rules! of_pairs {
            ($($name:ident)*) => {
                $(to.$name = self.output(stringify!($name), pairs, &mut results.$name);)*
            };
        }
        of_pairs!(pair_losses chosen_rewards rejected_rewards margins);
        to.coef = self.output("coef", sequences, &mut results.coef);
        to.metrics = self.output("metrics", 1, &mut results.metrics);
        to
    }

    fn gradient(&mut self, dlogits: *mut c_void, results: &mut Results) -> dpo_gradient {
        let description = self.description;
        let from = &description.gradient;
        let mut to = sized!(dpo_gradient);
        let (values, residual) = logsumexp(description);
        to.logsumexp = self.input("logsumexp", &values);
        to.logsumexp_residual = self.optional("logsumexp_residual", from.residual.then_some(&residual[..]));
        to.coef = self.optional("coef", from.coef.as_deref());
        to.token_coef = self.optional("token_coef", from.token_coef.as_deref());
        let [entropy_coef, entropy] = [0, 1].map(|i| from.entropy.as_ref().map(|both| &both[i][..]));
        to.entropy_coef = self.optional("entropy_coef", entropy_coef);
        to.entropy = self.optional("entropy", entropy);
        to.upstream = self.optional("upstream", from.upstream.as_ref().map(std::slice::from_ref));
        if let Some(scale) = from.upstream_scale {
            (to.upstream_scale, to.given) = (scale, to.given | DPO_GRADIENT_UPSTREAM_SCALE);
        }
        if let Some(threshold) = from.threshold {
            (to.threshold, to.given) = (threshold, to.given | DPO_GRADIENT_THRESHOLD);
        }
        if let Some(row) = from.nonfinite_row {
            let buffer = self.memory.in_and_out("nonfinite_row", &[row], self.random);
            results.nonfinite_row = Some(buffer);
            to.nonfinite_row = self.memory.address(buffer);
        }
        to.dlogits = dlogits;
        to
    }
}
