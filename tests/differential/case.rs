//! One case of the differential suite: a batch with everything that a pass reads, as plain data.

use dpo_kernels::IGNORE_INDEX;
use dpo_kernels::loss::{Kind, PairInputs, PairTensors};
use dpo_kernels::{
    Batch, HostBatch, LabelAlignment, LabelType, Labels, Logit, MetricsLevel, PairLoss, Pairs, Sequences,
    Transform,
};

use crate::random::Random;

/// Which positions of a sequence are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mask {
    /// Every one.
    Full,
    /// A prompt at the start and padding at the end are not.
    PromptAndPadding,
    /// Any position may be ignored.
    Holes,
    /// One whole sequence is ignored, the others have holes.
    EmptySequence,
    /// None at all.
    Everything,
}

impl Mask {
    pub const ALL: [Mask; 5] =
        [Mask::Full, Mask::PromptAndPadding, Mask::Holes, Mask::EmptySequence, Mask::Everything];
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairKind {
    Concatenated,
    Interleaved,
    Indexed,
    Unpaired,
}

/// What a case is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub vocab: usize,
    pub row_stride: usize,
    /// Bytes by which the logits start past a 16-byte boundary, where the executor can choose.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub phase: usize,
    /// The same for a separate gradient buffer; `None` is in place.
    pub gradient_phase: Option<usize>,
    pub sequences: usize,
    pub longest: usize,
    pub packed: bool,
    pub alignment: LabelAlignment,
    pub label_type: LabelType,
    pub pairs: PairKind,
    pub mask: Mask,
    pub loss: PairLoss,
    /// Every per-pair tensor that the loss takes, lengths of its own, and a normaliser in memory.
    pub tensors: bool,
    /// Largest |logit|.
    pub scale: f32,
    pub upstream: f32,
    pub transform: Transform,
    pub ld_alpha: f32,
    /// Which token metrics are asked for.
    pub metrics: MetricsLevel,
    /// Whether tokens have factors of their own.
    pub token_coef: bool,
    /// Whether the entropies of rows, which then are asked for, have a gradient.
    pub entropy_coef: bool,
    /// Largest coefficient that the gradient skips.
    pub threshold: f32,
    pub seed: u64,
}

impl Spec {
    /// A small plain case, for tests that change one thing of it.
    pub fn plain(vocab: usize) -> Spec {
        Spec {
            vocab,
            row_stride: vocab,
            phase: 0,
            gradient_phase: None,
            sequences: 4,
            longest: 3,
            packed: false,
            alignment: LabelAlignment::Aligned,
            label_type: LabelType::I64,
            pairs: PairKind::Concatenated,
            mask: Mask::Full,
            loss: PairLoss::sigmoid(0.1).unwrap(),
            tensors: false,
            scale: 8.0,
            upstream: 1.0,
            transform: Transform::default(),
            ld_alpha: 1.0,
            metrics: MetricsLevel::None,
            token_coef: false,
            entropy_coef: false,
            threshold: 0.0,
            seed: 1,
        }
    }
}

#[derive(Debug, Clone)]
pub enum OwnedLabels {
    I32(Vec<i32>),
    I64(Vec<i64>),
}

impl OwnedLabels {
    pub fn set(&mut self, row: usize, label: i64) {
        match self {
            OwnedLabels::I32(labels) => labels[row] = label as i32,
            OwnedLabels::I64(labels) => labels[row] = label,
        }
    }
}

/// [`PairInputs`] that own what they hold.
pub type Tensors = PairTensors<Vec<f32>, Vec<u32>, f32>;

fn draw_tensors(spec: &Spec, pairs: usize, random: &mut Random) -> Tensors {
    let terms = spec.loss.terms();
    let of_any = |property: fn(&Kind) -> bool| terms.iter().any(|term| property(term.kind));
    let mut draw = |count: usize, center: f32, spread: f32| {
        Some((0..count).map(|_| center + spread * random.symmetric()).collect::<Vec<f32>>())
    };
    let mut tensors = Tensors::default();
    if spec.loss.estimates_baseline() {
        tensors.kl_logps = draw(41, -20.0, 3.0);
        tensors.kl_ref_logps = draw(41, -22.0, 3.0).filter(|_| spec.loss.needs_reference());
    }
    if !spec.tensors {
        return tensors;
    }
    let beta = spec.loss.terms().iter().find(|term| term.kind.reads_beta()).map(|term| term.beta as f32);
    let beta = beta.filter(|_| spec.loss.has_one_beta());
    if !of_any(Kind::couples_pairs) {
        tensors.beta = beta.and_then(|beta| draw(pairs, beta, 0.5 * beta));
        tensors.weight = draw(pairs, 1.0, 1.0);
        tensors.sequence_log_weights = draw(spec.sequences, -1.0, 1.0);
        if of_any(Kind::takes_label_smoothing) {
            tensors.label_smoothing = draw(pairs, 0.2, 0.19);
        }
    }
    if of_any(Kind::is_of_margin) {
        tensors.gamma = draw(pairs, 0.0, 1.0);
    }
    tensors.normalizer = spec.loss.takes_normalizer().then_some(3.0);
    tensors.chosen_tokens = of_any(Kind::counts_chosen_tokens).then_some(11.0);
    tensors.lengths = Some((0..spec.sequences).map(|_| random.below(5) as u32).collect());
    tensors
}

#[derive(Debug, Clone)]
pub struct Case<T> {
    pub spec: Spec,
    pub logits: Vec<T>,
    pub labels: OwnedLabels,
    /// Row boundaries of the sequences, also where they are padded.
    pub cu_seqlens: Vec<i32>,
    pub chosen: Vec<i32>,
    pub rejected: Vec<i32>,
    pub ref_logps: Option<Vec<f32>>,
    /// Not 0 where a sequence is desirable.
    pub desirable: Vec<i32>,
    pub tensors: Tensors,
    pub token_coef: Option<Vec<f32>>,
    pub entropy_coef: Option<Vec<f32>>,
    /// Coefficients of the caller's own, instead of the loss's.
    pub own_coef: Option<Vec<f32>>,
}

impl<T: Logit> Case<T> {
    pub fn draw(spec: Spec) -> Case<T> {
        let mut random = Random(spec.seed);
        let lengths: Vec<usize> = (0..spec.sequences)
            .map(|s| match spec.packed {
                true if s % 5 == 3 && spec.mask == Mask::EmptySequence => 0,
                true => 1 + random.below(spec.longest),
                false => spec.longest,
            })
            .collect();
        let mut cu_seqlens = vec![0i32];
        for length in &lengths {
            cu_seqlens.push(cu_seqlens.last().unwrap() + *length as i32);
        }
        let rows = *cu_seqlens.last().unwrap() as usize;
        // What lies between rows must never be read: NaN would show.
        let mut logits = vec![T::from_f32(f32::NAN); (rows - 1) * spec.row_stride + spec.vocab];
        for row in logits.chunks_mut(spec.row_stride) {
            for value in row.iter_mut().take(spec.vocab) {
                *value = T::from_f32(spec.scale * random.symmetric());
            }
        }
        let mut labels = Vec::with_capacity(rows);
        for (s, &length) in lengths.iter().enumerate() {
            let prompt = random.below(length.max(1));
            for t in 0..length {
                let scored = match spec.mask {
                    Mask::Full => true,
                    Mask::PromptAndPadding => t >= prompt && (t + 1 < length || length == 1),
                    Mask::Holes => random.below(3) > 0,
                    Mask::EmptySequence => s != 1 && random.below(3) > 0,
                    Mask::Everything => false,
                };
                let columns = spec.transform.valid_vocab.unwrap_or(spec.vocab);
                labels.push(if scored { random.below(columns) as i64 } else { IGNORE_INDEX });
            }
        }
        let pairs = spec.sequences / 2;
        let mut index = |count: usize| (0..pairs).map(|_| random.below(count)).collect::<Vec<usize>>();
        let (chosen, distances) = (index(spec.sequences), index(spec.sequences - 1));
        let rejected =
            chosen.iter().zip(distances).map(|(w, d)| ((w + 1 + d) % spec.sequences) as i32).collect();
        let chosen = chosen.iter().map(|&w| w as i32).collect();
        let ref_logps = (!spec.loss.is_reference_free())
            .then(|| lengths.iter().map(|&n| n as f32 * (-6.0 + 2.0 * random.symmetric())).collect());
        let labels = match spec.label_type {
            LabelType::I32 => OwnedLabels::I32(labels.iter().map(|&label| label as i32).collect()),
            LabelType::I64 => OwnedLabels::I64(labels),
        };
        let desirable = (0..spec.sequences).map(|s| (random.next() % 2) as i32 * (s as i32 + 1)).collect();
        let count = if spec.pairs == PairKind::Unpaired { spec.sequences } else { pairs };
        let tensors = draw_tensors(&spec, count, &mut random);
        // What belongs to rows that are not scored is not looked at: NaN would show.
        let factor = |random: &mut Random| random.pick(&[0.0, 1.0, 1.0, -0.5, 2.75, f32::NAN]);
        let mut token_coef: Vec<f32> = (0..rows).map(|_| factor(&mut random)).collect();
        let mut entropy_coef: Vec<f32> = (0..rows).map(|_| factor(&mut random)).collect();
        let mut case = Case {
            spec,
            logits,
            labels,
            cu_seqlens,
            chosen,
            rejected,
            ref_logps,
            desirable,
            tensors,
            token_coef: None,
            entropy_coef: None,
            own_coef: None,
        };
        for factors in [&mut token_coef, &mut entropy_coef] {
            for (factor, target) in factors.iter_mut().zip(case.targets()) {
                if target.is_some() && factor.is_nan() {
                    *factor = 0.25;
                }
            }
        }
        case.token_coef = spec.token_coef.then_some(token_coef);
        case.entropy_coef = spec.entropy_coef.then_some(entropy_coef);
        case
    }

    pub fn rows(&self) -> usize {
        *self.cu_seqlens.last().unwrap() as usize
    }

    pub fn batch(&self) -> HostBatch<'_> {
        let spec = &self.spec;
        let sequences = match spec.packed {
            true => Sequences::Packed { cu_seqlens: &self.cu_seqlens[..], rows: self.rows() },
            false => Sequences::Padded { count: spec.sequences, len: spec.longest },
        };
        Batch {
            row_stride: spec.row_stride,
            pairs: match spec.pairs {
                PairKind::Concatenated => Pairs::Concatenated,
                PairKind::Interleaved => Pairs::Interleaved,
                PairKind::Indexed => Pairs::Indexed { chosen: &self.chosen, rejected: &self.rejected },
                PairKind::Unpaired => Pairs::Unpaired { desirable: &self.desirable },
            },
            transform: spec.transform,
            ld_alpha: spec.ld_alpha,
            ..Batch::new(spec.vocab, sequences, spec.alignment)
        }
    }

    /// What `pair_loss` is given.
    pub fn inputs(&self) -> PairInputs<'_, f32> {
        let tensors = self.tensors.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number);
        PairInputs { ref_logps: self.ref_logps.as_deref(), ..tensors }
    }

    pub fn labels(&self) -> Labels<'_> {
        match &self.labels {
            OwnedLabels::I32(labels) => Labels::I32(labels),
            OwnedLabels::I64(labels) => Labels::I64(labels),
        }
    }

    /// The label that each row predicts, if it is scored.
    pub fn targets(&self) -> Vec<Option<usize>> {
        let shift = usize::from(self.spec.alignment == LabelAlignment::NextToken);
        let mut targets = Vec::with_capacity(self.rows());
        for bounds in self.cu_seqlens.windows(2) {
            for row in bounds[0] as usize..bounds[1] as usize {
                let label = (row + shift < bounds[1] as usize).then(|| match &self.labels {
                    OwnedLabels::I32(labels) => i64::from(labels[row + shift]),
                    OwnedLabels::I64(labels) => labels[row + shift],
                });
                targets.push(label.filter(|&label| label != IGNORE_INDEX).map(|label| label as usize));
            }
        }
        targets
    }

    /// What `backward` takes for each row: the weights of `logps`, if the batch has them, times the tokens' own factors.
    pub fn token_factors(&self, weights: &[f32]) -> Option<Vec<f32>> {
        let weights = (self.spec.ld_alpha != 1.0).then_some(weights);
        match (weights, &self.token_coef) {
            (None, None) => None,
            (Some(weights), None) => Some(weights.to_vec()),
            (None, Some(own)) => Some(own.clone()),
            (Some(weights), Some(own)) => Some(weights.iter().zip(own).map(|(w, own)| w * own).collect()),
        }
    }

    /// The logits of one row.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let start = row * self.spec.row_stride;
        &mut self.logits[start..start + self.spec.vocab]
    }

    /// The same rows laid out otherwise: with another stride and phase.
    pub fn restrided(&self, row_stride: usize, phase: usize) -> Case<T> {
        let mut other = self.clone();
        other.spec = Spec { row_stride, phase, ..self.spec };
        other.logits = vec![T::from_f32(f32::NAN); (self.rows() - 1) * row_stride + self.spec.vocab];
        for row in 0..self.rows() {
            let start = row * self.spec.row_stride;
            other.row_mut(row).copy_from_slice(&self.logits[start..start + self.spec.vocab]);
        }
        other
    }

    /// Pair `pair` of a padded, concatenated batch on its own.
    pub fn alone(&self, pair: usize) -> Case<T> {
        let (len, stride) = (self.spec.longest, self.spec.row_stride);
        let members = [pair, self.spec.sequences / 2 + pair];
        let rows = members.iter().flat_map(|&s| s * len..(s + 1) * len);
        let mut other = self.clone();
        other.spec.sequences = 2;
        other.cu_seqlens = vec![0, len as i32, 2 * len as i32];
        other.logits =
            rows.clone().flat_map(|row| self.logits[row * stride..][..self.spec.vocab].to_vec()).collect();
        other.spec.row_stride = self.spec.vocab;
        other.labels = match &self.labels {
            OwnedLabels::I32(labels) => OwnedLabels::I32(rows.map(|row| labels[row]).collect()),
            OwnedLabels::I64(labels) => OwnedLabels::I64(rows.map(|row| labels[row]).collect()),
        };
        other.ref_logps = self.ref_logps.as_ref().map(|values| members.map(|s| values[s]).to_vec());
        let rows = members.iter().flat_map(|&s| s * len..(s + 1) * len);
        other.token_coef = self.token_coef.as_ref().map(|values| rows.map(|row| values[row]).collect());
        other
    }
}
