//! What `pair_loss` is called with, in f64, and the numbers that it makes of that first.

use dpo_kernels::loss::Normalizer;
use dpo_kernels::{HostBatch, PairInputs, PairLoss, PairOutputs, Pairs, reference};

/// The chosen and the rejected sequence of a pair; an unpaired one has one of them.
pub type Members = (Option<usize>, Option<usize>);

#[derive(Debug, Clone, Copy)]
pub struct PairArguments<'a> {
    pub batch: &'a HostBatch<'a>,
    pub loss: &'a PairLoss,
    pub inputs: PairInputs<'a, f64>,
    pub logps: &'a [f64],
    pub scored: &'a [u32],
}

impl PairArguments<'_> {
    /// `pair_loss` of the reference.
    pub fn evaluate(&self, logps: &[f64]) -> PairOutputs<f64> {
        reference::pair_loss(self.batch, logps, Some(self.scored), &self.inputs, self.loss).unwrap()
    }

    pub fn pairs(&self) -> Vec<Members> {
        let of = |indices: &[i32], i: usize| Some(indices[i] as usize);
        let count = self.batch.pairs.count(self.logps.len());
        let members = |i: usize| match self.batch.pairs {
            Pairs::None => (None, None),
            Pairs::Concatenated => (Some(i), Some(count + i)),
            Pairs::Interleaved => (Some(2 * i), Some(2 * i + 1)),
            Pairs::Indexed { chosen, rejected } => (of(chosen, i), of(rejected, i)),
            Pairs::Unpaired { desirable } if desirable[i] != 0 => (Some(i), None),
            Pairs::Unpaired { .. } => (None, Some(i)),
        };
        (0..count).map(members).collect()
    }

    pub(super) fn length(&self, s: usize) -> f64 {
        let lengths = self.inputs.lengths.unwrap_or(self.scored);
        f64::from(lengths[s].max(1))
    }

    /// The pair's own, or else the usual one: of a loss of the sum, or of the rewards.
    pub(super) fn beta(&self, pair: usize, usual: f64) -> f64 {
        self.inputs.beta.map_or(usual, |beta| beta[pair])
    }

    /// What a log-ratio is multiplied by: β, or β/n.
    pub(super) fn scale(&self, beta: f64, s: usize, length_normalized: bool) -> f64 {
        if length_normalized { beta / self.length(s) } else { beta }
    }

    /// The least that a log-ratio is multiplied by.
    pub(super) fn least_scale(&self) -> f64 {
        let count = self.batch.pairs.count(self.logps.len());
        let of_terms = self.loss.terms().iter().map(|term| term.beta).fold(f64::INFINITY, f64::min);
        let least_beta = (0..count).map(|pair| self.beta(pair, of_terms)).fold(f64::INFINITY, f64::min);
        let longest = (0..self.logps.len()).map(|s| self.length(s)).fold(1.0, f64::max);
        least_beta / longest
    }

    /// The largest |γ|.
    pub(super) fn largest_gamma(&self) -> f64 {
        let largest = |gamma: &[f64]| gamma.iter().fold(0.0, |most: f64, &gamma| gamma.abs().max(most));
        self.inputs.gamma.map_or(self.loss.gamma().abs(), largest)
    }

    pub(super) fn ref_logp(&self, s: usize) -> f64 {
        self.inputs.ref_logps.map_or(0.0, |ref_logps| ref_logps[s])
    }

    pub(super) fn log_ratio(&self, s: usize) -> f64 {
        self.logps[s] - self.ref_logp(s)
    }

    /// Scored tokens of the chosen and of the rejected sequences of all pairs.
    pub(super) fn tokens(&self) -> (f64, f64) {
        let scored = |s: Option<usize>| s.map_or(0.0, |s| f64::from(self.scored[s]));
        let sum = |tokens: (f64, f64), (w, l)| (tokens.0 + scored(w), tokens.1 + scored(l));
        self.pairs().into_iter().fold((0.0, 0.0), sum)
    }

    pub(super) fn normalizer(&self) -> f64 {
        match (self.inputs.normalizer, self.loss.normalizer()) {
            (Some(number), _) | (None, Normalizer::Number(number)) => number,
            (None, Normalizer::Pairs) => self.batch.pairs.count(self.logps.len()) as f64,
            (None, Normalizer::Tokens) => self.tokens().0 + self.tokens().1,
        }
    }

    /// The sequences' part of a pair's weight is exp of this.
    pub(super) fn log_weight(&self, (w, l): Members) -> LogWeight {
        let of = |s: Option<usize>| match (s, self.inputs.sequence_log_weights) {
            (Some(s), Some(log_weights)) => log_weights[s],
            _ => 0.0,
        };
        LogWeight { sum: of(w) + of(l), size: of(w).abs() + of(l).abs() }
    }

    /// The factor of a pair's loss.
    pub(super) fn weight(&self, pair: usize, members: Members) -> f64 {
        self.inputs.weight.map_or(1.0, |weight| weight[pair]) * self.log_weight(members).sum.exp()
    }

    /// What each pair adds to the coefficients of its chosen and of its rejected sequence: the coefficients of copies of
    /// these, each of which stands in one pair alone.
    pub fn contributions(&self, pairs: &[Members]) -> Vec<(f64, f64)> {
        let order = || {
            let chosen = pairs.iter().map(|pair| pair.0.expect("of indexed pairs"));
            chosen.chain(pairs.iter().map(|pair| pair.1.expect("of indexed pairs")))
        };
        let copy = |of: &[f64]| -> Vec<f64> { order().map(|s| of[s]).collect() };
        let count = |of: &[u32]| -> Vec<u32> { order().map(|s| of[s]).collect() };
        let [ref_logps, log_weights] =
            [self.inputs.ref_logps, self.inputs.sequence_log_weights].map(|of| of.map(copy));
        let lengths = self.inputs.lengths.map(count);
        let inputs = PairInputs {
            ref_logps: ref_logps.as_deref(),
            sequence_log_weights: log_weights.as_deref(),
            lengths: lengths.as_deref(),
            ..self.inputs
        };
        let batch = HostBatch::for_pair_loss(2 * pairs.len());
        let (logps, scored) = (copy(self.logps), count(self.scored));
        let copies = PairArguments { batch: &batch, inputs, logps: &logps, scored: &scored, ..*self };
        let coef = copies.evaluate(&logps).coef;
        (0..pairs.len()).map(|pair| (coef[pair], coef[pairs.len() + pair])).collect()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LogWeight {
    pub sum: f64,
    /// Of the two logarithms, by absolute value.
    pub size: f64,
}
