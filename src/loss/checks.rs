//! What `pair_loss` refuses to be given with a loss.

use super::inputs::{PairInputLens, PairInputs};
use super::kind::Kind;
use super::normalizer::Normalizer;
use super::pair_loss::PairLoss;
use crate::error::{Error, Result};
use crate::pairs::Pairs;
use crate::sequences::IndexArray;

impl PairLoss {
    /// Checks what `pair_loss` is given, for `sequences` sequences: what the loss needs is there, what it has no use
    /// for is not, and all of it has the length it should have. `scored` is the length of the numbers of scored rows,
    /// which `logps` writes.
    pub(crate) fn check_inputs<A: IndexArray>(
        &self,
        pairs: &Pairs<A>,
        sequences: usize,
        given: &PairInputLens,
        scored: Option<usize>,
    ) -> Result<()> {
        let unpaired = match pairs {
            Pairs::None => {
                return Err(Error::value("pairs", "a layout with pairs, for a loss", "Pairs::None"));
            }
            Pairs::Unpaired { .. } => true,
            _ => false,
        };
        if unpaired && let Some(term) = self.terms().iter().find(|term| !term.kind.is_sided()) {
            let expected = format!("pairs, for {}, which compares two sequences", term.kind.name());
            return Err(Error::value("pairs", expected, "Pairs::Unpaired"));
        }
        let count = pairs.count(sequences);
        let lengths = [
            ("ref_logps", "[sequences]", sequences, given.ref_logps),
            ("lengths", "[sequences]", sequences, given.lengths.or(scored)),
            ("scored", "[sequences]", sequences, scored),
            ("beta", "[pairs]", count, given.beta),
            ("gamma", "[pairs]", count, given.gamma),
            ("weight", "[pairs]", count, given.weight),
            ("label_smoothing", "[pairs]", count, given.label_smoothing),
            ("sequence_log_weights", "[sequences]", sequences, given.sequence_log_weights),
            ("kl_ref_logps", "[kl_logps]", given.kl_logps.unwrap_or(0), given.kl_ref_logps),
        ];
        for (argument, shape, expected, found) in lengths {
            found.map(|found| Error::check_len(argument, shape, expected, found)).transpose()?;
        }
        self.check_useful(given)?;
        self.check_sufficient(given, scored)
    }

    fn check_useful(&self, given: &PairInputLens) -> Result<()> {
        let none = |argument, whose: &str| Err(Error::value(argument, format!("none, for {whose}"), "some"));
        for (argument, found) in [("ref_logps", given.ref_logps), ("kl_ref_logps", given.kl_ref_logps)] {
            if self.reference_free && found.is_some() {
                return none(argument, "a loss without a reference");
            }
        }
        if given.beta.is_some() && !self.any(Kind::reads_beta) {
            return none("beta", "a loss of log-probs, which does not read it");
        }
        if given.beta.is_some() && !self.has_one_beta() {
            return none("beta", "losses whose temperatures differ");
        }
        if given.gamma.is_some() {
            self.check_takes_gamma()?;
        }
        if given.label_smoothing.is_some() && !self.any(Kind::takes_label_smoothing) {
            return none("label_smoothing", "a loss without it");
        }
        let per_pair = [
            ("beta", given.beta),
            ("weight", given.weight),
            ("label_smoothing", given.label_smoothing),
            ("sequence_log_weights", given.sequence_log_weights),
        ];
        if self.any(Kind::couples_pairs)
            && let Some((argument, _)) = per_pair.into_iter().find(|(_, found)| found.is_some())
        {
            return none(argument, "a loss that sorts the pairs");
        }
        if given.kl_logps.is_some() {
            self.check_has_baseline("kl_logps")?;
        }
        if given.kl_logps == Some(0) {
            return Err(Error::value("kl_logps", "at least one", 0));
        }
        if given.chosen_tokens.is_some() && !self.any(Kind::counts_chosen_tokens) {
            return none("chosen_tokens", "a loss that does not count them");
        }
        let is_divided = given.normalizer.is_some() || self.normalizer != Normalizer::Pairs;
        if is_divided && !self.takes_normalizer() {
            return none("normalizer", "a loss that is divided by the number of chosen tokens alone");
        }
        Ok(())
    }

    fn check_sufficient(&self, given: &PairInputLens, scored: Option<usize>) -> Result<()> {
        let missing = |argument, because| Err(Error::Missing { argument, because });
        let reference = "the loss compares with a reference and is not reference-free (without_reference, in C reference_free)";
        if self.needs_reference() && given.ref_logps.is_none() {
            return missing("ref_logps", reference);
        }
        if self.needs_reference() && given.kl_logps.is_some() && given.kl_ref_logps.is_none() {
            return missing("kl_ref_logps", reference);
        }
        let divides = self.terms().iter().any(|term| term.length_normalized || term.kind.needs_lengths());
        if given.lengths.or(scored).is_none() && (self.length_normalized || divides) {
            return missing("lengths", "the loss is length-normalised");
        }
        let counts_chosen = self.any(Kind::counts_chosen_tokens) && given.chosen_tokens.is_none();
        if scored.is_none() && (counts_chosen || self.normalizer == Normalizer::Tokens) {
            return missing("scored", "the loss is divided by a number of tokens");
        }
        if self.wpo_weights && given.sequence_log_weights.is_none() {
            return missing("sequence_log_weights", "the loss has WPO's weights");
        }
        if self.estimates_baseline() && given.kl_logps.is_none() {
            return missing("kl_logps", "the loss compares with a baseline that is not set");
        }
        Ok(())
    }

    /// Refuses per-pair values that are out of their ranges.
    pub(crate) fn check_values<F: Copy + Into<f64>>(&self, inputs: &PairInputs<'_, F>) -> Result<()> {
        inputs.check_values()?;
        for (at, &epsilon) in inputs.label_smoothing.unwrap_or_default().iter().enumerate() {
            let epsilon = epsilon.into();
            self.check_label_smoothing(epsilon, || format!("{epsilon} at {at}"))?;
        }
        Ok(())
    }

    /// Refuses an ε that lies outside the range of a loss of the sum, and any for a sum without a loss that takes one.
    pub(super) fn check_label_smoothing(&self, value: f64, found: impl Fn() -> String) -> Result<()> {
        let mut ranges = self.terms().iter().filter_map(|term| term.kind.label_smoothing).peekable();
        if ranges.peek().is_none() {
            return Err(Error::value("label_smoothing", "none, for a loss without it", found()));
        }
        match ranges.find(|epsilon| !(epsilon.range.contains)(value)) {
            None => Ok(()),
            Some(epsilon) => Err(Error::value("label_smoothing", epsilon.range.words, found())),
        }
    }

    pub(super) fn check_takes_gamma(&self) -> Result<()> {
        if self.any(Kind::is_of_margin) {
            return Ok(());
        }
        Err(Error::value("gamma", "none, for a loss that is not of the margin z", "one"))
    }

    pub(super) fn check_has_baseline(&self, argument: &'static str) -> Result<()> {
        if self.any(Kind::needs_baseline) {
            return Ok(());
        }
        Err(Error::value(argument, "none, for a loss that has no baseline", "one"))
    }
}
