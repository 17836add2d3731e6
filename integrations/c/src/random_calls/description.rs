//! What a call says, in the crate's terms: what it is handed follows from this, and what it is to answer.

use dpo_kernels::loss::{Divergence, LossInfo, MAX_PARAMETERS, MAX_TERMS, Normalizer, PairTensors};
use dpo_kernels::{
    Batch, DType, Error, HostBatch, LabelType, Labels, PairInputs, PairLoss, Result, Sequences,
    WantedGradients,
};

use crate::calls::Stage;

/// [`PairInputs`] that own what they hold.
pub type Tensors = PairTensors<Vec<f32>, Vec<u32>, f32>;

#[derive(Clone, Debug)]
pub struct Description {
    pub stage: Stage,
    pub batch: Batch<Vec<i32>>,
    pub dtype: DType,
    pub label_type: LabelType,
    /// From the first element of the first row to the last of the last.
    pub logits: Vec<f32>,
    pub labels: Vec<i64>,
    pub loss: Loss,
    /// With the reference's log-probs.
    pub inputs: Tensors,
    /// What `pair_loss` takes of `logps`.
    pub logps: Vec<f32>,
    pub scored: Option<Vec<u32>>,
    /// Names of the outputs that may be left out and are not.
    pub wanted: Vec<&'static str>,
    pub gradient: Gradient,
    /// Where logits are made of hidden states.
    pub head: Option<Head>,
}

/// A `dpo_lm_head`, and what is wanted of it.
#[derive(Clone, Debug)]
pub struct Head {
    pub hidden_size: usize,
    pub hidden: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub budget_bytes: Option<usize>,
    /// Whether a plan is of a loss; a forward pass always is.
    pub has_loss: bool,
    /// None where there is no struct that would say it.
    pub gradients: Option<WantedGradients>,
    /// What the gradients of weight and bias are added to.
    pub start: f32,
    /// Whether the call has the workspace that many calls have, or one of its own.
    pub shares_workspace: bool,
    /// On a GPU.
    pub workspace: HeadWorkspace,
}

/// A `dpo_cuda_lm_head_workspace`.
#[derive(Clone, Debug)]
pub struct HeadWorkspace {
    pub sequences: usize,
    pub rows: usize,
    pub pairs: usize,
    pub vocab: usize,
    pub hidden_size: usize,
    pub dtype: DType,
    pub logits_dtype: Option<DType>,
    pub budget_bytes: Option<usize>,
    pub product_bytes: Option<usize>,
}

/// A `dpo_loss` without its inputs.
#[derive(Clone, Debug)]
pub struct Loss {
    pub beta: f64,
    /// None of them is sigmoid alone.
    pub terms: Vec<Term>,
    pub divergence: Divergence,
    pub normalizer: Normalizer,
    pub length_normalized: bool,
    pub wpo_weights: bool,
    pub reference_free: bool,
    pub label_smoothing: Option<f64>,
    pub gamma: Option<f64>,
    pub baseline: Option<f64>,
}

/// A `dpo_loss_term`.
#[derive(Clone, Debug)]
pub struct Term {
    /// As C has it, but for the end.
    pub name: Vec<u8>,
    pub weight: Option<f64>,
    pub beta: Option<f64>,
    pub parameters: [Option<f64>; MAX_PARAMETERS],
}

/// A `dpo_gradient`, or where `factored` writes.
#[derive(Clone, Debug)]
pub struct Gradient {
    pub residual: bool,
    pub coef: Option<Vec<f32>>,
    pub token_coef: Option<Vec<f32>>,
    /// The coefficients of entropies, and what stands for those.
    pub entropy: Option<[Vec<f32>; 2]>,
    pub upstream: Option<f32>,
    pub upstream_scale: Option<f32>,
    pub threshold: Option<f32>,
    pub nonfinite_row: Option<u32>,
    pub place: Place,
}

/// Where a gradient is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Apart,
    /// Where the logits are.
    Logits,
    /// At the end of the logits.
    Behind,
    /// So many elements into the logits, or before them.
    Overlapping(isize),
}

impl Description {
    /// The batch that the stage sees.
    pub fn host_batch(&self) -> HostBatch<'_> {
        let whole = self.batch.try_map_indices(|array| Ok(&array[..])).expect("nothing refuses a slice");
        if self.stage != Stage::PairLoss {
            return whole;
        }
        // Sequences and pairs are all that it looks at.
        let sequences = Sequences::Padded { count: whole.sequences.count(), len: 1 };
        Batch { vocab: 1, row_stride: 1, sequences, transform: Default::default(), ld_alpha: 1.0, ..whole }
    }

    /// The labels, as of the type that they are handed over in.
    pub fn with_labels<R>(&self, f: impl FnOnce(Labels<'_>) -> R) -> R {
        match self.label_type {
            LabelType::I64 => f(Labels::I64(&self.labels)),
            LabelType::I32 => {
                let labels: Vec<i32> = self.labels.iter().map(|&label| label as i32).collect();
                f(Labels::I32(&labels))
            }
        }
    }

    /// What `backward` multiplies with, in the precision in which it is handed over.
    pub fn upstream(&self) -> f32 {
        self.gradient.upstream.unwrap_or(1.0) * self.gradient.upstream_scale.unwrap_or(1.0)
    }

    /// The stage, and what its logits are.
    pub fn kind(&self) -> String {
        match self.stage {
            Stage::PairLoss => "PairLoss".to_string(),
            stage => format!("{stage:?} of {:?}", self.dtype),
        }
    }

    /// How many pairs there are.
    pub fn pair_count(&self) -> usize {
        self.host_batch().pair_count()
    }

    /// Whether an output that may be left out is asked for.
    pub fn wants(&self, output: &str) -> bool {
        self.wanted.contains(&output)
    }
}

impl Loss {
    /// Whether every term has a β of its own.
    pub fn is_beta_of_terms(&self) -> bool {
        !self.terms.is_empty() && self.terms.iter().all(|term| term.beta.is_some())
    }

    /// The loss that the header describes.
    pub fn make(&self) -> Result<PairLoss> {
        // The crate does not count a term of weight 0; the header counts what there is.
        if self.terms.len() > MAX_TERMS {
            let (expected, found) = (format!("at most {MAX_TERMS}"), self.terms.len().to_string());
            return Err(Error::Value { argument: "term_count", expected, found });
        }
        // It is of the terms that have none of their own.
        if self.is_beta_of_terms() {
            if self.beta != 0.0 {
                let (expected, found) = ("0".to_string(), self.beta.to_string());
                return Err(Error::Value { argument: "beta", expected, found });
            }
        } else {
            let _ = PairLoss::sigmoid(self.beta)?;
        }
        let told = |loss: PairLoss| if self.reference_free { loss.without_reference() } else { loss };
        let mut terms = self.terms.iter();
        let mut loss = match terms.next() {
            None => told(PairLoss::sigmoid(self.beta)?),
            Some(term) => told(term.make(self.beta)?.weighted(term.weight.unwrap_or(1.0))?),
        };
        for term in terms {
            loss = loss.and(told(term.make(self.beta)?), term.weight.unwrap_or(1.0))?;
        }
        if let Some(label_smoothing) = self.label_smoothing {
            loss = loss.with_label_smoothing(label_smoothing)?;
        }
        if let Some(gamma) = self.gamma {
            loss = loss.with_gamma(gamma)?;
        }
        if let Some(baseline) = self.baseline {
            loss = loss.with_baseline(baseline)?;
        }
        if self.length_normalized {
            loss = loss.with_length_normalization();
        }
        if self.wpo_weights {
            loss = loss.with_wpo_weights();
        }
        loss = loss.with_divergence(self.divergence)?;
        match self.normalizer {
            Normalizer::Pairs => Ok(loss),
            Normalizer::Tokens => Ok(loss.with_token_normalizer()),
            Normalizer::Number(number) => loss.with_normalizer(number),
        }
    }
}

impl Term {
    fn make(&self, beta: f64) -> Result<PairLoss> {
        let info = LossInfo::named(&String::from_utf8_lossy(&self.name))?;
        if let Some(beta) = self.beta.filter(|_| !info.reads_beta()) {
            let (expected, found) = (format!("none for {}", info.name), beta.to_string());
            return Err(Error::Value { argument: "beta", expected, found });
        }
        let beta = self.beta.unwrap_or(beta);
        let mut parameters = vec![];
        for (place, given) in self.parameters.into_iter().enumerate() {
            match (info.parameters.get(place), given) {
                (Some(parameter), given) => parameters.push(given.unwrap_or(parameter.usual(beta))),
                (None, Some(found)) => {
                    let (expected, found) = (format!("none for {}", info.name), found.to_string());
                    return Err(Error::Value { argument: "parameters", expected, found });
                }
                (None, None) => (),
            }
        }
        info.make(beta, &parameters)
    }
}

/// Inputs in the precision of the reference.
pub struct WideInputs(PairTensors<Vec<f64>, Vec<u32>, f64>);

impl WideInputs {
    pub fn of(inputs: &Tensors) -> Self {
        let wide = |values: &Vec<f32>| values.iter().map(|&value| f64::from(value)).collect();
        WideInputs(inputs.as_ref().map(wide, Vec::clone, |&number| f64::from(number)))
    }

    pub fn inputs(&self) -> PairInputs<'_, f64> {
        self.0.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number)
    }
}
