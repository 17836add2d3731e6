//! What a pass finds wrong in its data, and in the gradient that it writes.

use std::fmt;

/// What a pass found in its data: for each kind of trouble, the first place.
///
/// Trouble is never hidden: a row with a bad label or a non-finite log-prob also shows as NaN or infinity in the
/// loss of its pair. An empty sequence has log-prob 0, which is a number, so this is where it shows. A pair of
/// [weight](crate::PairInputs::weight) 0 has no bad input, since it has none; its rows are looked at like all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// First scored row whose label is neither the ignore index nor below the vocabulary size; its log-prob is NaN.
    pub bad_label: Option<usize>,
    /// First scored row whose log-prob is NaN or infinite.
    pub nonfinite_row: Option<usize>,
    /// First sequence without a scored row; its log-prob is 0.
    pub empty_sequence: Option<usize>,
    /// First entry of a device-side cu_seqlens that is out of order; every output is NaN then. (In host memory this
    /// is [`Error::Index`](crate::Error::Index).)
    pub bad_cu_seqlens: Option<usize>,
    /// First pair whose device-side indices are out of range; its outputs are NaN. (In host memory this is
    /// [`Error::Index`](crate::Error::Index).)
    pub bad_pair: Option<usize>,
    /// First pair (or sequence, where they are [unpaired](crate::Pairs::Unpaired)) with an input that is no number to compute
    /// with: a reference log-prob, a weight or a baseline that is not finite; in device memory also a β, γ, ε, weight or
    /// normaliser that the host would have refused. A number that all pairs share is the first one's. What reads it is
    /// NaN or infinite.
    pub bad_pair_input: Option<usize>,
}

impl Status {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == Status::default()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = [
            ("label out of range, first in row", self.bad_label),
            ("non-finite log-prob, first in row", self.nonfinite_row),
            ("no scored token, first in sequence", self.empty_sequence),
            ("cu_seqlens out of order, first at entry", self.bad_cu_seqlens),
            ("sequence index out of range, first in pair", self.bad_pair),
            ("input not finite or out of range, first in pair", self.bad_pair_input),
        ];
        let mut parts = found.into_iter().filter_map(|(what, place)| Some((what, place?)));
        match parts.next() {
            None => f.write_str("clean"),
            Some((what, place)) => {
                write!(f, "{what} {place}")?;
                parts.try_for_each(|(what, place)| write!(f, "; {what} {place}"))
            }
        }
    }
}

/// What `backward` found in what it wrote.
///
/// An f16 ends at 65504: a gradient beyond becomes an infinity, as it does in every framework. Loss scaling goes through
/// the upstream gradient: multiply it by the scale, divide the optimizer's step by it, and where this is not clean
/// skip the step and lower the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GradientStatus {
    /// First row whose gradient holds an infinity (which is how an overflow shows) or a NaN.
    pub nonfinite_row: Option<usize>,
}

impl GradientStatus {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == GradientStatus::default()
    }
}

impl fmt::Display for GradientStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nonfinite_row {
            None => f.write_str("clean"),
            Some(row) => write!(f, "infinity or NaN, first in row {row}"),
        }
    }
}
