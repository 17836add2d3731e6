//! What `pair_loss` reads besides log-probs, each of it optional.

use super::range::Range;
use crate::error::{Error, Result};

/// What `pair_loss` reads besides log-probs. All of it may be left out but what the loss cannot do without. S sequences, N
/// pairs.
///
/// A tensor of β, γ or ε replaces the loss's own value, pair by pair; its numbers have the range of that value.
///
/// One declaration for every memory: arrays of f32 or f64 are `Floats`, those of u32 `Counts`, single numbers `Number`.
/// In host memory that is [`PairInputs`], on a GPU `cuda::plan::DevicePairInputs` and `cuda::PairSlices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairTensors<Floats, Counts, Number> {
    /// `[S]`: log-probs under the reference, in nats. A loss that compares with a reference needs them, unless it is
    /// [without one](super::PairLoss::without_reference); one of log-probs alone takes them for its rewards.
    pub ref_logps: Option<Floats>,
    /// `[S]`: what a loss divides log-ratios or log-probs by, where that is not the number of scored rows; 0 counts
    /// as 1. TRL's n, for one, also counts a completion's first token, which no row predicts.
    pub lengths: Option<Counts>,
    /// `[N]`: β, finite and above 0, for a loss that reads it, or losses that have the same.
    pub beta: Option<Floats>,
    /// `[N]`: γ, the target margin that rewards are to be won by: the difference of ground-truth rewards, say
    /// (Touvron et al. 2023, arXiv:2307.09288, eq. 2; Amini et al. 2024, "DPO with an offset", arXiv:2402.10571).
    pub gamma: Option<Floats>,
    /// `[N]`: a factor of the pair's loss, from 0, finite. A pair of weight 0 is not part of the batch, whatever its numbers
    /// are, infinite or NaN: not of the loss, the coefficients and the metrics, and neither it nor its tokens are counted
    /// where a number of pairs or of tokens is divided by. So a batch is filled up to a shape. Its rewards are still
    /// reported, and its rows are still looked at by `logps`.
    pub weight: Option<Floats>,
    /// `[N]`: ε.
    pub label_smoothing: Option<Floats>,
    /// `[S]`: logarithms of weights; a pair's loss is multiplied by exp of the sum of its two sequences', or by
    /// min(1, exp) of it [as WPO does](super::PairLoss::with_wpo_weights). No gradient goes through it.
    pub sequence_log_weights: Option<Floats>,
    /// `[M]`: log-probs of completions under prompts that are not theirs. KTO's baseline is
    /// z₀ = max(0, mean(kl_logps − kl_ref_logps)); no gradient goes through it.
    pub kl_logps: Option<Floats>,
    /// `[M]`: log-probs of the same completions under the reference; needed with them unless the loss is without
    /// one, and then none may be given.
    pub kl_ref_logps: Option<Floats>,
    /// What the sum of the pair losses is divided by, finite and above 0, instead of what the loss says. Refused where nothing
    /// [is](super::PairLoss::takes_normalizer).
    pub normalizer: Option<Number>,
    /// What [`PairLoss::sft`](super::PairLoss::sft) divides by, finite and above 0, instead of this batch's number
    /// of scored chosen tokens: that of the global batch.
    pub chosen_tokens: Option<Number>,
}

/// [`PairTensors`] in host memory. `F` is `f32`, or `f64` in [`reference`](crate::reference).
///
/// ```
/// use dpo_kernels::{HostBatch, PairInputs, PairLoss, PairOutputs, cpu};
///
/// // Two pairs; the second is worth half, and is to be won by a margin of 1.
/// let (batch, loss) = (HostBatch::for_pair_loss(4), PairLoss::sigmoid(0.5)?);
/// let reference = PairInputs::reference(&[-4.0f32; 4]);
/// let inputs = PairInputs { weight: Some(&[1.0, 0.5]), gamma: Some(&[0.0, 1.0]), ..reference };
/// let mut out = PairOutputs::default();
/// cpu::pair_loss(&batch, &[-3.0, -3.0, -3.0, -5.0], None, &inputs, &loss, &mut out)?;
/// assert_eq!(out.pair_losses[0], 2.0 * out.pair_losses[1]);
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
pub type PairInputs<'a, F = f32> = PairTensors<&'a [F], &'a [u32], F>;

/// Hands the names of the fields to a macro, sorted by what they hold.
macro_rules! fields {
    ($each:ident) => {
        $each! {
            floats: ref_logps beta gamma weight label_smoothing sequence_log_weights kl_logps kl_ref_logps;
            counts: lengths;
            number: normalizer chosen_tokens;
        }
    };
}

impl<Floats, Counts, Number> PairTensors<Floats, Counts, Number> {
    /// No input at all.
    pub const NONE: Self = {
        macro_rules! none {
            ($($kind:ident: $($field:ident)*;)*) => { PairTensors { $($($field: None,)*)* } };
        }
        fields!(none)
    };

    /// The log-probs under the reference, `[S]` in nats, and nothing else.
    pub fn reference(ref_logps: Floats) -> Self {
        PairTensors { ref_logps: Some(ref_logps), ..Self::NONE }
    }

    /// References to what there is, for [`map`](Self::map).
    pub fn as_ref(&self) -> PairTensors<&Floats, &Counts, &Number> {
        macro_rules! borrow {
            ($($kind:ident: $($field:ident)*;)*) => { PairTensors { $($($field: self.$field.as_ref(),)*)* } };
        }
        fields!(borrow)
    }

    /// The same inputs in another memory: each one that is there goes through the function of its type, which is also
    /// told its name.
    ///
    /// # Errors
    ///
    /// The first error of one of the functions.
    pub fn try_map<F, C, N, E>(
        self,
        mut floats: impl FnMut(&'static str, Floats) -> std::result::Result<F, E>,
        mut counts: impl FnMut(&'static str, Counts) -> std::result::Result<C, E>,
        mut number: impl FnMut(&'static str, Number) -> std::result::Result<N, E>,
    ) -> std::result::Result<PairTensors<F, C, N>, E> {
        macro_rules! map {
            (floats: $($f:ident)*; counts: $($c:ident)*; number: $($n:ident)*;) => {
                PairTensors {
                    $($f: self.$f.map(|given| floats(stringify!($f), given)).transpose()?,)*
                    $($c: self.$c.map(|given| counts(stringify!($c), given)).transpose()?,)*
                    $($n: self.$n.map(|given| number(stringify!($n), given)).transpose()?,)*
                }
            };
        }
        Ok(fields!(map))
    }

    /// [`try_map`](Self::try_map) by functions that do not fail.
    pub fn map<F, C, N>(
        self,
        mut floats: impl FnMut(Floats) -> F,
        mut counts: impl FnMut(Counts) -> C,
        mut number: impl FnMut(Number) -> N,
    ) -> PairTensors<F, C, N> {
        let mapped = self.try_map::<F, C, N, std::convert::Infallible>(
            |_, given| Ok(floats(given)),
            |_, given| Ok(counts(given)),
            |_, given| Ok(number(given)),
        );
        let Ok(mapped) = mapped;
        mapped
    }
}

impl<Floats, Counts, Number> Default for PairTensors<Floats, Counts, Number> {
    fn default() -> Self {
        PairTensors::NONE
    }
}

/// Which inputs are given, and how long they are.
pub(crate) type PairInputLens = PairTensors<usize, usize, ()>;

impl<F: Copy + Into<f64>> PairInputs<'_, F> {
    pub(crate) fn lens(&self) -> PairInputLens {
        self.map(<[F]>::len, <[u32]>::len, |_| ())
    }

    /// Refuses what a device could only turn into NaN.
    pub(crate) fn check_values(&self) -> Result<()> {
        let all = |argument, words: &str, values: Option<&[F]>, range: Range| {
            let values = values.unwrap_or_default().iter().map(|&value| -> f64 { value.into() });
            match values.enumerate().find(|&(_, value)| !(range.contains)(value)) {
                None => Ok(()),
                Some((at, found)) => Err(Error::value(argument, words, format!("{found} at {at}"))),
            }
        };
        all("beta", "finite numbers above 0", self.beta, Range::ABOVE_ZERO)?;
        all("gamma", "finite numbers", self.gamma, Range::FINITE)?;
        all("weight", "finite numbers from 0", self.weight, Range::FROM_ZERO)?;
        for (argument, number) in [("normalizer", self.normalizer), ("chosen_tokens", self.chosen_tokens)] {
            number.map(|number| Range::ABOVE_ZERO.check(argument, number.into())).transpose()?;
        }
        Ok(())
    }
}
