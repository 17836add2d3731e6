//! What the sum of the pair losses is divided by.

/// What the sum of the pair losses is divided by. Where that is a count, a pair of [weight](super::PairInputs::weight) 0 is
/// not counted, and where nothing is, the loss and all coefficients are 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Normalizer {
    /// The number of pairs of the batch; of sequences where they are [unpaired](crate::Pairs::Unpaired).
    #[default]
    Pairs,
    /// The number of scored tokens of the batch's pairs, chosen and rejected.
    Tokens,
    /// A number: of pairs of the global batch, say, under data parallelism or gradient accumulation.
    Number(f64),
}

impl Normalizer {
    /// The divisor of a batch of so many pairs with so many scored tokens.
    pub(super) fn of(self, pairs: u32, tokens: u64) -> f64 {
        match self {
            Normalizer::Pairs => pairs.into(),
            Normalizer::Tokens => tokens as f64,
            Normalizer::Number(number) => number,
        }
    }
}
