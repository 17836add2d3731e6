//! Shapes and layouts: how rows of logits form sequences, and sequences form pairs.
//!
//! A [`Batch`] describes; it holds no logits. Its index arrays are of type `A`: `&[i32]` on the host, a device
//! address with a length on the GPU. What the host can check is checked by [`Batch::validate`] before any work.

use std::fmt;

use crate::error::{Error, Result};
use crate::transform::Transform;

/// The label of a position that is not scored, unless [`Batch::ignore_index`] says otherwise (PyTorch's value).
pub const IGNORE_INDEX: i64 = -100;

/// Rows, sequences and vocabulary are counted in 31 bits, as labels and index arrays are; offsets are 64 bits wide.
const COUNT_LIMIT: usize = i32::MAX as usize;

/// Element type of logits and of their gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl DType {
    /// Every element type, for tables and tests.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The largest finite value.
    pub(crate) fn largest(self) -> f32 {
        match self {
            DType::F32 => f32::MAX,
            DType::F16 => half::f16::MAX.to_f32(),
            DType::BF16 => half::bf16::MAX.to_f32(),
        }
    }

    /// `"f32"`, `"f16"` or `"bf16"`: the suffix of the kernels' entry points.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

mod sealed {
    /// Keeps other crates from implementing [`Logit`](super::Logit).
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A Rust type that logits can have: f32, f16 and bf16, and no other.
pub trait Logit: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The element type this is.
    const DTYPE: DType;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even; beyond the largest finite value gives an infinity.
    fn from_f32(value: f32) -> Self;
}

impl Logit for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
}

macro_rules! half_logit {
    ($($half:ty => $dtype:ident),*) => {$(
        impl Logit for $half {
            const DTYPE: DType = DType::$dtype;
            fn to_f32(self) -> f32 {
                self.to_f32()
            }
            fn from_f32(value: f32) -> Self {
                <$half>::from_f32(value)
            }
        }
    )*};
}
half_logit!(half::f16 => F16, half::bf16 => BF16);

/// Element type of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelType {
    /// 32-bit signed.
    I32,
    /// 64-bit signed, what PyTorch and candle use.
    I64,
}

/// Labels in host memory, one per row: a token id below the vocabulary size, or the ignore index.
#[derive(Debug, Clone, Copy)]
pub enum Labels<'a> {
    /// 32-bit labels.
    I32(&'a [i32]),
    /// 64-bit labels.
    I64(&'a [i64]),
}

impl Labels<'_> {
    /// Number of labels.
    pub fn len(&self) -> usize {
        match self {
            Labels::I32(labels) => labels.len(),
            Labels::I64(labels) => labels.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, row: usize) -> i64 {
        match self {
            Labels::I32(labels) => i64::from(labels[row]),
            Labels::I64(labels) => labels[row],
        }
    }
}

impl<'a> From<&'a [i32]> for Labels<'a> {
    fn from(labels: &'a [i32]) -> Self {
        Labels::I32(labels)
    }
}

impl<'a> From<&'a [i64]> for Labels<'a> {
    fn from(labels: &'a [i64]) -> Self {
        Labels::I64(labels)
    }
}

/// Which label a row of logits predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LabelAlignment {
    /// Row `r` predicts `labels[r]`: the labels are already shifted.
    #[default]
    Aligned,
    /// Row `t` of a sequence predicts `labels[t + 1]`, and the last row is ignored: Hugging Face's unshifted
    /// tensors, as they are.
    NextToken,
}

/// An array of indices whose length the host knows, wherever its elements live.
pub trait IndexArray {
    /// Number of elements.
    fn count(&self) -> usize;
}

impl IndexArray for &[i32] {
    fn count(&self) -> usize {
        self.len()
    }
}

/// How rows form sequences. Every sequence is a contiguous run of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences<A> {
    /// `[count, len]`: sequence `s` is rows `s·len .. (s+1)·len`; padding is marked by the ignore index.
    Padded {
        /// Number of sequences S.
        count: usize,
        /// Rows per sequence T.
        len: usize,
    },
    /// Sequence `s` is rows `cu_seqlens[s] .. cu_seqlens[s+1]`.
    Packed {
        /// `[S + 1]`, from 0 to `rows`, never decreasing; equal neighbours are an empty sequence.
        cu_seqlens: A,
        /// Number of rows, which is also the last entry of `cu_seqlens`.
        rows: usize,
    },
}

impl<A: IndexArray> Sequences<A> {
    /// Number of sequences S.
    pub fn count(&self) -> usize {
        match self {
            Sequences::Padded { count, .. } => *count,
            Sequences::Packed { cu_seqlens, .. } => cu_seqlens.count().saturating_sub(1),
        }
    }

    /// Number of rows over all sequences, or `None` if that overflows.
    fn checked_rows(&self) -> Option<usize> {
        match self {
            Sequences::Padded { count, len } => count.checked_mul(*len),
            Sequences::Packed { rows, .. } => Some(*rows),
        }
    }
}

impl Sequences<&[i32]> {
    /// Rows of sequence `s`, of a validated batch.
    pub(crate) fn range(&self, s: usize) -> std::ops::Range<usize> {
        match self {
            Sequences::Padded { len, .. } => s * len..(s + 1) * len,
            Sequences::Packed { cu_seqlens, .. } => cu_seqlens[s] as usize..cu_seqlens[s + 1] as usize,
        }
    }

    /// The sequence that row `row` belongs to, of a validated batch.
    pub(crate) fn of_row(&self, row: usize) -> usize {
        match self {
            Sequences::Padded { len, .. } => row / len,
            // The last sequence to start at or before the row: empty ones that start there come earlier.
            Sequences::Packed { cu_seqlens, .. } => {
                cu_seqlens.partition_point(|&start| start as usize <= row) - 1
            }
        }
    }
}

/// Which sequences are chosen and which rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs<A> {
    /// No pairs: a pass that only computes log-probs, such as the reference model's.
    None,
    /// S = 2N: sequences `0..N` are chosen, `N..2N` rejected, in the same order.
    Concatenated,
    /// S = 2N: sequence `2i` is chosen, `2i + 1` rejected.
    Interleaved,
    /// Pair `i` is (`chosen[i]`, `rejected[i]`). A sequence may stand in several pairs, whose coefficients add up
    /// in pair order, or in none, and then its coefficient is 0.
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

impl Pairs<&[i32]> {
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

/// A batch of labelled sequences of logits, without the logits.
///
/// `logits` is `[rows, vocab]` with `row_stride >= vocab` elements from one row to the next; the elements between
/// are never touched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batch<A> {
    /// Vocabulary size V.
    pub vocab: usize,
    /// Elements from the start of a row to the start of the next.
    pub row_stride: usize,
    /// How rows form sequences.
    pub sequences: Sequences<A>,
    /// How sequences form pairs.
    pub pairs: Pairs<A>,
    /// Which label a row predicts.
    pub label_alignment: LabelAlignment,
    /// Label of positions that are not scored.
    pub ignore_index: i64,
    /// What happens to the logits before the softmax.
    pub transform: Transform,
    /// Length desensitization (LD-DPO, Liu et al. 2024, arXiv:2409.06411): the weight, from 0 to 1, of the scored
    /// tokens of a sequence beyond as many as the other of its pair has. At 1, the default, all tokens count alike.
    ///
    /// `logps` weighs the sums, [`Logps::logps`]; the reference pass takes the same batch. The weights are in
    /// [`Logps::token_weights`], for `backward`. Needs sequences that are in one pair each: concatenated or interleaved.
    pub ld_alpha: f32,
}

/// A batch whose index arrays are in host memory.
pub type HostBatch<'a> = Batch<&'a [i32]>;

impl<A> Batch<A> {
    /// Dense rows, concatenated pairs, aligned labels and [`IGNORE_INDEX`]; change the fields that differ.
    pub fn new(vocab: usize, sequences: Sequences<A>) -> Self {
        Batch {
            vocab,
            row_stride: vocab,
            sequences,
            pairs: Pairs::Concatenated,
            label_alignment: LabelAlignment::Aligned,
            ignore_index: IGNORE_INDEX,
            transform: Transform::default(),
            ld_alpha: 1.0,
        }
    }

    /// `[count, len]` sequences, otherwise as [`Batch::new`].
    pub fn padded(count: usize, len: usize, vocab: usize) -> Self {
        Batch::new(vocab, Sequences::Padded { count, len })
    }

    /// Packed sequences of `rows` rows in all, otherwise as [`Batch::new`].
    pub fn packed(cu_seqlens: A, rows: usize, vocab: usize) -> Self {
        Batch::new(vocab, Sequences::Packed { cu_seqlens, rows })
    }
}

impl<A: Copy> Batch<A> {
    /// The same batch with its index arrays elsewhere.
    ///
    /// # Errors
    ///
    /// The first of `f`.
    pub fn try_map_indices<B>(&self, mut f: impl FnMut(A) -> Result<B>) -> Result<Batch<B>> {
        Ok(Batch {
            vocab: self.vocab,
            row_stride: self.row_stride,
            sequences: match self.sequences {
                Sequences::Padded { count, len } => Sequences::Padded { count, len },
                Sequences::Packed { cu_seqlens, rows } => {
                    Sequences::Packed { cu_seqlens: f(cu_seqlens)?, rows }
                }
            },
            pairs: match self.pairs {
                Pairs::None => Pairs::None,
                Pairs::Concatenated => Pairs::Concatenated,
                Pairs::Interleaved => Pairs::Interleaved,
                Pairs::Indexed { chosen, rejected } => {
                    Pairs::Indexed { chosen: f(chosen)?, rejected: f(rejected)? }
                }
                Pairs::Unpaired { desirable } => Pairs::Unpaired { desirable: f(desirable)? },
            },
            label_alignment: self.label_alignment,
            ignore_index: self.ignore_index,
            transform: self.transform,
            ld_alpha: self.ld_alpha,
        })
    }
}

impl<A: IndexArray> Batch<A> {
    /// Number of rows (token positions). Meaningful for a batch that [`validate_shape`](Self::validate_shape)
    /// accepts.
    pub fn rows(&self) -> usize {
        self.sequences.checked_rows().unwrap_or(usize::MAX)
    }

    /// Number of pairs N.
    pub fn pair_count(&self) -> usize {
        self.pairs.count(self.sequences.count())
    }

    /// Columns that take part in the softmax: all but [`Transform::valid_vocab`]'s padding.
    pub fn columns(&self) -> usize {
        self.transform.columns(self.vocab)
    }

    /// Elements that the logits buffer must hold: from the first element of the first row to the last of the last.
    pub fn logits_len(&self) -> usize {
        (self.rows() - 1) * self.row_stride + self.vocab
    }

    /// Checks that a gradient buffer is the logits buffer itself, or lies apart from it: both are addresses in the
    /// same memory.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `argument`.
    pub fn check_gradient(
        &self,
        argument: &'static str,
        dtype: DType,
        logits: u64,
        gradient: u64,
    ) -> Result<()> {
        let bytes = (self.logits_len() * dtype.size()) as u64;
        if gradient == logits || gradient.abs_diff(logits) >= bytes {
            return Ok(());
        }
        let expected = format!("the logits buffer itself ({logits:#x}) or one at least {bytes} bytes away");
        Err(Error::value(argument, expected, format!("{gradient:#x}")))
    }

    /// The factored forward takes logits as they are, and has no token metrics.
    pub(crate) fn check_factored(&self, metrics: bool) -> Result<()> {
        if self.transform != Transform::default() {
            let found = format!("{:?}", self.transform);
            return Err(Error::value("transform", "none, in the factored forward", found));
        }
        if metrics {
            return Err(Error::value("metrics", "none, in the factored forward", "some"));
        }
        Ok(())
    }

    /// Checks everything that does not need the elements of an index array.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `vocab`, `row_stride`, `sequences`, `rows`, `cu_seqlens`, `pairs`, `ld_alpha` or a
    /// field of `transform`; [`Error::Length`] where `chosen` and `rejected` differ in length, or `desirable` is not of
    /// the sequences'.
    pub fn validate_shape(&self) -> Result<()> {
        let within = |argument, found: usize| {
            if (1..=COUNT_LIMIT).contains(&found) {
                Ok(())
            } else {
                Err(Error::value(argument, format!("between 1 and {COUNT_LIMIT}"), found))
            }
        };
        within("vocab", self.vocab)?;
        if self.row_stride < self.vocab {
            return Err(Error::value(
                "row_stride",
                format!("at least vocab = {}", self.vocab),
                self.row_stride,
            ));
        }
        self.transform.validate(self.vocab)?;
        if !(0.0..=1.0).contains(&self.ld_alpha) {
            return Err(Error::value("ld_alpha", "a number from 0 to 1", self.ld_alpha));
        }
        if let Sequences::Packed { cu_seqlens, .. } = &self.sequences {
            let found = cu_seqlens.count();
            if found < 2 {
                return Err(Error::value("cu_seqlens", "at least 2 entries, [S + 1]", found));
            }
        }
        let sequences = self.sequences.count();
        within("sequences", sequences)?;
        within("rows", self.sequences.checked_rows().unwrap_or(usize::MAX))?;
        // Byte offsets are i64 on the device: leave room for the widest element.
        if self.row_stride.checked_mul(self.rows()).is_none_or(|n| n > (i64::MAX / 4) as usize) {
            return Err(Error::value("row_stride", "rows * row_stride below 2^61", self.row_stride));
        }
        match &self.pairs {
            pairs if self.ld_alpha != 1.0 && !matches!(pairs, Pairs::Concatenated | Pairs::Interleaved) => {
                let expected =
                    "concatenated or interleaved, where ld_alpha is not 1: each sequence in one pair";
                Err(Error::value("pairs", expected, "another layout"))
            }
            Pairs::None => Ok(()),
            Pairs::Concatenated | Pairs::Interleaved if sequences.is_multiple_of(2) => Ok(()),
            Pairs::Concatenated | Pairs::Interleaved => {
                Err(Error::value("sequences", "an even number, chosen and rejected", sequences))
            }
            Pairs::Indexed { chosen, rejected } => {
                within("pairs", chosen.count())?;
                Error::check_len("rejected", "[pairs]", chosen.count(), rejected.count())
            }
            Pairs::Unpaired { desirable } => {
                Error::check_len("desirable", "[sequences]", sequences, desirable.count())
            }
        }
    }
}

impl HostBatch<'_> {
    /// [`validate_shape`](Self::validate_shape), and the entries of cu_seqlens, chosen and rejected.
    ///
    /// # Errors
    ///
    /// Those of [`validate_shape`](Self::validate_shape), and [`Error::Index`] with the first offending entry.
    pub fn validate(&self) -> Result<()> {
        self.validate_shape()?;
        if let Sequences::Packed { cu_seqlens, rows } = self.sequences {
            let mut least = 0;
            let last = cu_seqlens.len() - 1;
            for (position, &found) in cu_seqlens.iter().enumerate() {
                let (expected, fits) = match position {
                    0 => ("0".to_string(), found == 0),
                    p if p == last => {
                        (format!("the number of rows, {rows}"), found >= least && found as usize == rows)
                    }
                    _ => (format!("between {least} and {rows}"), found >= least && found as usize <= rows),
                };
                if !fits {
                    let found = i64::from(found);
                    return Err(Error::Index { argument: "cu_seqlens", position, expected, found });
                }
                least = found;
            }
        }
        if let Pairs::Indexed { chosen, rejected } = self.pairs {
            let sequences = self.sequences.count();
            for (argument, indices) in [("chosen", chosen), ("rejected", rejected)] {
                if let Some(position) = indices.iter().position(|&i| i < 0 || i as usize >= sequences) {
                    return Err(Error::Index {
                        argument,
                        position,
                        expected: format!("a sequence index below {sequences}"),
                        found: i64::from(indices[position]),
                    });
                }
            }
        }
        Ok(())
    }

    /// The label that row `row` of a sequence ending before row `end` predicts, or `None` if the row is not scored.
    pub(crate) fn label(&self, labels: Labels<'_>, row: usize, end: usize) -> Option<i64> {
        let at = match self.label_alignment {
            LabelAlignment::Aligned => row,
            LabelAlignment::NextToken => row + 1,
        };
        (at < end).then(|| labels.get(at)).filter(|&label| label != self.ignore_index)
    }

    /// The column of a label of a scored row, or `None` if it lies outside the vocabulary.
    pub(crate) fn column(&self, label: i64) -> Option<usize> {
        usize::try_from(label).ok().filter(|&column| column < self.columns())
    }

    /// Number of scored rows of sequence `s`.
    fn scored_rows(&self, labels: Labels<'_>, s: usize) -> usize {
        let rows = self.sequences.range(s);
        let end = rows.end;
        rows.filter(|&row| self.label(labels, row, end).is_some()).count()
    }

    /// How many scored tokens of sequence `s` count in full; those beyond weigh `ld_alpha`.
    pub(crate) fn full_tokens(&self, labels: Labels<'_>, s: usize) -> usize {
        if self.ld_alpha == 1.0 {
            return usize::MAX;
        }
        let partner = match self.pairs {
            Pairs::Interleaved => s ^ 1,
            _ => (s + self.pair_count()) % self.sequences.count(),
        };
        self.scored_rows(labels, partner)
    }

    /// Validates the batch and the lengths of what every pass over the logits is given.
    pub(crate) fn check_pass(&self, logits: usize, labels: Labels<'_>) -> Result<()> {
        self.validate()?;
        self.check_logits("logits", logits)?;
        Error::check_len("labels", "[rows]", self.rows(), labels.len())
    }

    /// A buffer of logits, or of their gradient, may be longer than [`logits_len`](Self::logits_len).
    pub(crate) fn check_logits(&self, argument: &'static str, found: usize) -> Result<()> {
        let shape = "at least (rows - 1) * row_stride + vocab";
        Error::check_len_at_least(argument, shape, self.logits_len(), found)
    }
}

/// What a pass found in its data: for each kind of trouble, the first place.
///
/// Trouble is never hidden: a row with a bad label or a non-finite log-prob also shows as NaN or infinity in the
/// loss of its pair. An empty sequence has log-prob 0, which is a number, so this is where it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// First scored row whose label is neither the ignore index nor below the vocabulary size; its log-prob is NaN.
    pub bad_label: Option<usize>,
    /// First scored row whose log-prob is NaN or infinite.
    pub nonfinite_row: Option<usize>,
    /// First sequence without a scored row; its log-prob is 0.
    pub empty_sequence: Option<usize>,
    /// First entry of a device-side cu_seqlens that is out of order; every output is NaN then. (In host memory this
    /// is [`Error::Index`].)
    pub bad_cu_seqlens: Option<usize>,
    /// First pair whose device-side indices are out of range; its outputs are NaN. (In host memory this is
    /// [`Error::Index`].)
    pub bad_pair: Option<usize>,
}

impl Status {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == Status::default()
    }

    /// # Errors
    ///
    /// [`Error::Data`] with this status, unless it is clean.
    pub fn check(self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Data(self)) }
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

/// `logps`: log-probs of tokens and sequences. `F` is `f32`, or `f64` in [`reference`](crate::reference).
///
/// Buffers are resized to fit, so one value serves call after call without allocating again.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logps<F> {
    /// `[S]`: sum of the scored token log-probs of each sequence, in nats.
    pub logps: Vec<F>,
    /// `[S]`: number of scored rows.
    pub scored: Vec<u32>,
    /// `[rows]`: log-prob of the label; 0 in rows that are not scored.
    pub token_logps: Vec<F>,
    /// `[rows]`: log Σ exp over the vocabulary; 0 in rows that are not scored.
    pub logsumexp: Vec<F>,
    /// `[rows]`: what rounding took from `logsumexp`. At |logsumexp| = 10⁴ an f32 is off by up to 5·10⁻⁴, which
    /// would be the relative error of every gradient in the row; `backward` adds this back. 0 in the f64 reference.
    pub logsumexp_residual: Vec<F>,
    /// `[rows]`: what each token counts in its sequence's sum: 1, or [`Batch::ld_alpha`] in the tail that the other of
    /// the pair has no match for; 0 in rows that are not scored. Where `ld_alpha` is not 1, `backward` needs it as
    /// [`Coef::tokens`](crate::Coef::tokens).
    pub token_weights: Vec<F>,
    /// Metrics of each token, from the same read of the logits. Where a backend finds `None` here, it does not compute
    /// them, which is free; `Some(TokenMetrics::default())` asks for them. The f64 reference always gives them.
    pub metrics: Option<TokenMetrics<F>>,
    /// What was found in the data.
    pub status: Status,
}

/// What one read of a row of logits tells beside its log-prob, with p = softmax(z′) over the valid vocabulary.
///
/// All are 0 in rows that are not scored. In a row with a bad label, and where the log-prob is NaN, what is not a number
/// is NaN, and `correct` is 0. The logit of the label is token_logps + logsumexp.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenMetrics<F> {
    /// `[rows]`: H = −Σ p log p = logsumexp − Σ p z′, in nats.
    pub entropy: Vec<F>,
    /// `[rows]`: 1 where the label is the most probable token, else 0. Of several largest logits z the first is meant.
    pub correct: Vec<F>,
    /// `[rows]`: mean of z′ over the valid vocabulary.
    pub mean_logit: Vec<F>,
    /// `[rows]`: Σ p².
    pub sum_p2: Vec<F>,
    /// `[S]`: mean over the scored tokens of log p_y − log Σ p²: the logarithm of WPO's weight of the sequence (Zhou
    /// et al. 2024, arXiv:2406.11827), as `pair_loss` takes it. 0 where there is no scored token.
    pub sequence_log_weights: Vec<F>,
    /// Metrics of the batch: the means of what stands above, and of the logsumexp.
    pub means: MeanTokenMetrics<F>,
}

/// Means over the scored rows of a batch, whatever their weights: sums in f64, rounded once.
///
/// What is NaN in one scored row is NaN in the mean, but for the accuracy, which counts that row as wrong. Without a
/// scored row all are 0, so that means of several batches, weighted by `scored`, make those of all together. Where
/// device-side cu_seqlens are out of order, `scored` is 0 and the means are NaN.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MeanTokenMetrics<F> {
    /// Number of scored rows.
    pub scored: u32,
    /// Mean entropy, in nats.
    pub entropy: F,
    /// Share of rows whose label is the most probable token: the mean of [`TokenMetrics::correct`].
    pub accuracy: F,
    /// Mean of z′ over rows and valid vocabulary.
    pub mean_logit: F,
    /// Mean of log Σ exp z′, in nats.
    pub logsumexp: F,
    /// Mean of Σ p².
    pub sum_p2: F,
}

/// `pair_loss`: what becomes of the sequence log-probs of a batch of pairs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PairOutputs<F> {
    /// Metrics of the batch: the loss and the means of what follows.
    pub metrics: PairMetrics<F>,
    /// `[N]`: loss of each pair, before the normaliser.
    pub pair_losses: Vec<F>,
    /// `[N]`: r̂_w = β(logp_w − ref_logp_w), whatever the loss; divided by n_w where it is length-normalised.
    pub chosen_rewards: Vec<F>,
    /// `[N]`: r̂_l = β(logp_l − ref_logp_l), likewise.
    pub rejected_rewards: Vec<F>,
    /// `[N]`: u = r̂_w − r̂_l.
    pub margins: Vec<F>,
    /// `[S]`: c_s = ∂loss/∂logp_s, the coefficient that `backward` takes.
    pub coef: Vec<F>,
}

/// Metrics of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairMetrics<F> {
    /// Σ pair_losses ÷ normaliser.
    pub loss: F,
    /// Mean of the chosen rewards.
    pub chosen_reward: F,
    /// Mean of the rejected rewards.
    pub rejected_reward: F,
    /// Mean margin.
    pub margin: F,
    /// Share of pairs with r̂_w > r̂_l; a tie, or a NaN, counts as wrong.
    pub accuracy: F,
}
