//! How sequences form pairs.

use crate::error::Result;
use crate::sequences::IndexArray;

/// Which sequences are chosen and which rejected.
///
/// ```
/// use dpo_kernels::{HostBatch, LabelAlignment, Pairs};
///
/// // A prompt with one chosen answer, sequence 0, and two rejected ones.
/// let pairs = Pairs::Indexed { chosen: &[0, 0][..], rejected: &[1, 2][..] };
/// let batch = HostBatch { pairs, ..HostBatch::padded(3, 16, 100, LabelAlignment::NextToken) };
/// batch.validate()?;
/// assert_eq!(batch.pair_count(), 2);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs<A> {
    /// No pairs: a pass that only computes log-probs, such as the reference model's.
    None,
    /// S = 2N: sequences `0..N` are chosen, `N..2N` rejected, in the same order.
    Concatenated,
    /// S = 2N: sequence `2i` is chosen, `2i + 1` rejected.
    Interleaved,
    /// Pair `i` is (`chosen[i]`, `rejected[i]`), two different sequences: indices in host memory that name one sequence
    /// twice are refused, those on a device are not looked at for it, and such a pair has a margin of 0. A sequence may
    /// stand in several pairs, whose coefficients add up in pair order, or in none, and then its coefficient is 0.
    Indexed {
        /// `[N]` sequence indices.
        chosen: A,
        /// `[N]` sequence indices.
        rejected: A,
    },
    /// Sequences that are judged one by one, for [losses](crate::loss) such as KTO: N = S, and "pair" `i` is sequence
    /// `i` alone, chosen where it is desirable and rejected where not. The missing side has a reward of 0, and means
    /// are over those that are there; the mean margin is the difference of the two means.
    Unpaired {
        /// `[S]`: not 0 where the sequence is desirable.
        desirable: A,
    },
}

impl<A> Pairs<A> {
    /// The same pairs with their index arrays elsewhere.
    ///
    /// # Errors
    ///
    /// The first of `f`.
    pub fn try_map_indices<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> Result<B>) -> Result<Pairs<B>> {
        Ok(match self {
            Pairs::None => Pairs::None,
            Pairs::Concatenated => Pairs::Concatenated,
            Pairs::Interleaved => Pairs::Interleaved,
            Pairs::Indexed { chosen, rejected } => {
                Pairs::Indexed { chosen: f(chosen)?, rejected: f(rejected)? }
            }
            Pairs::Unpaired { desirable } => Pairs::Unpaired { desirable: f(desirable)? },
        })
    }
}

impl<A: IndexArray> Pairs<A> {
    /// Number of pairs N among `sequences` sequences.
    pub fn count(&self, sequences: usize) -> usize {
        match self {
            Pairs::None => 0,
            Pairs::Concatenated | Pairs::Interleaved => sequences / 2,
            Pairs::Indexed { chosen, .. } => chosen.count(),
            Pairs::Unpaired { .. } => sequences,
        }
    }
}

/// How many scored tokens the pairs of a batch have: each sequence counts once for each pair that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairTokens {
    /// Of the chosen sequences: what [`sft`](crate::PairLoss::sft) divides by.
    pub chosen: u64,
    /// Of the rejected ones.
    pub rejected: u64,
}

impl PairTokens {
    /// Both: what [`with_token_normalizer`](crate::PairLoss::with_token_normalizer) divides by.
    pub fn all(&self) -> u64 {
        self.chosen + self.rejected
    }
}

impl Pairs<&[i32]> {
    /// The tokens of those of `count` pairs that count, of a validated batch.
    pub(crate) fn tokens(&self, count: usize, counts: impl Fn(usize) -> bool, scored: &[u32]) -> PairTokens {
        let of = |s: Option<usize>| s.map_or(0, |s| u64::from(scored[s]));
        (0..count).filter(|&i| counts(i)).fold(PairTokens::default(), |sum, i| {
            let (w, l) = self.members(i, count);
            PairTokens { chosen: sum.chosen + of(w), rejected: sum.rejected + of(l) }
        })
    }

    /// Chosen and rejected sequence of pair `i` of `count`, of a validated batch.
    pub(crate) fn members(&self, i: usize, count: usize) -> (Option<usize>, Option<usize>) {
        match self {
            Pairs::None => (None, None),
            Pairs::Concatenated => (Some(i), Some(count + i)),
            Pairs::Interleaved => (Some(2 * i), Some(2 * i + 1)),
            Pairs::Indexed { chosen, rejected } => (Some(chosen[i] as usize), Some(rejected[i] as usize)),
            Pairs::Unpaired { desirable } if desirable[i] != 0 => (Some(i), None),
            Pairs::Unpaired { .. } => (None, Some(i)),
        }
    }
}
