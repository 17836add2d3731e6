//! Shapes and layouts: how rows of logits form sequences, and sequences form pairs.
//!
//! A [`Batch`] describes; it holds no logits. Its index arrays are of type `A`: `&[i32]` on the host, a device
//! address with a length on the GPU. What the host can check is checked by [`Batch::validate`] before any work.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::labels::{IGNORE_INDEX, LabelAlignment, Labels};
use crate::memory::Extent;
use crate::pairs::{PairTokens, Pairs};
use crate::sequences::{IndexArray, Sequences};
use crate::transform::Transform;

/// Rows, sequences and vocabulary are counted in 31 bits, as labels and index arrays are; offsets are 64 bits wide.
pub(crate) const COUNT_LIMIT: usize = i32::MAX as usize;

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
    ///
    /// [`Logps::logps`]: crate::Logps::logps
    /// [`Logps::token_weights`]: crate::Logps::token_weights
    pub ld_alpha: f32,
}

/// A batch whose index arrays are in host memory.
pub type HostBatch<'a> = Batch<&'a [i32]>;

impl<A> Batch<A> {
    /// Dense rows, concatenated pairs and [`IGNORE_INDEX`]; change the fields that differ. There is no usual alignment:
    /// the wrong one gives a finite loss that is not the batch's.
    pub fn new(vocab: usize, sequences: Sequences<A>, label_alignment: LabelAlignment) -> Self {
        Batch {
            vocab,
            row_stride: vocab,
            sequences,
            pairs: Pairs::Concatenated,
            label_alignment,
            ignore_index: IGNORE_INDEX,
            transform: Transform::default(),
            ld_alpha: 1.0,
        }
    }

    /// `[count, len]` sequences, otherwise as [`Batch::new`].
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, LabelAlignment, Pairs};
    ///
    /// // Two pairs of Hugging Face's tensors as they are, chosen and rejected in turn.
    /// let batch = HostBatch::padded(4, 512, 32_000, LabelAlignment::NextToken);
    /// let batch = HostBatch { pairs: Pairs::Interleaved, ..batch };
    /// batch.validate()?;
    /// assert_eq!((batch.rows(), batch.pair_count()), (2048, 2));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn padded(count: usize, len: usize, vocab: usize, label_alignment: LabelAlignment) -> Self {
        Batch::new(vocab, Sequences::Padded { count, len }, label_alignment)
    }

    /// Packed sequences of `rows` rows in all, otherwise as [`Batch::new`].
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, LabelAlignment};
    ///
    /// // A pair in seven rows: the chosen sequence has four of them, the rejected one three.
    /// let batch = HostBatch::packed(&[0, 4, 7], 7, 32_000, LabelAlignment::Aligned);
    /// batch.validate()?;
    /// assert_eq!(batch.pair_count(), 1);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn packed(cu_seqlens: A, rows: usize, vocab: usize, label_alignment: LabelAlignment) -> Self {
        Batch::new(vocab, Sequences::Packed { cu_seqlens, rows }, label_alignment)
    }

    /// As many sequences, in concatenated pairs, of which there are log-probs: for `pair_loss` alone, which looks at neither
    /// rows nor labels.
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, PairInputs, PairLoss, reference};
    ///
    /// let (logps, inputs) = ([-3.0, -5.0], PairInputs::reference(&[-4.0, -4.0]));
    /// let out = reference::pair_loss(&HostBatch::for_pair_loss(2), &logps, None, &inputs, &PairLoss::sigmoid(0.5)?)?;
    /// assert_eq!(out.margins, [1.0]);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    pub fn for_pair_loss(sequences: usize) -> Self {
        Batch::padded(sequences, 1, 1, LabelAlignment::Aligned)
    }
}

impl<A> Batch<A> {
    /// The same batch with its index arrays elsewhere.
    ///
    /// # Errors
    ///
    /// The first of `f`.
    pub fn try_map_indices<'a, B>(&'a self, mut f: impl FnMut(&'a A) -> Result<B>) -> Result<Batch<B>> {
        Ok(Batch {
            vocab: self.vocab,
            row_stride: self.row_stride,
            sequences: match &self.sequences {
                &Sequences::Padded { count, len } => Sequences::Padded { count, len },
                Sequences::Packed { cu_seqlens, rows } => {
                    Sequences::Packed { cu_seqlens: f(cu_seqlens)?, rows: *rows }
                }
            },
            pairs: self.pairs.try_map_indices(f)?,
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

    /// How many sequences, rows and pairs there are.
    pub fn extent(&self) -> Extent {
        Extent { sequences: self.sequences.count(), rows: self.rows(), pairs: self.pair_count() }
    }

    /// Columns that take part in the softmax: all but [`Transform::valid_vocab`]'s padding.
    pub fn columns(&self) -> usize {
        self.transform.columns(self.vocab)
    }

    /// Elements that the logits buffer must hold: from the first element of the first row to the last of the last. Those
    /// that follow the last row, up to the stride, may be there too.
    ///
    /// Meaningful, like [`rows`](Self::rows), for a batch that [`validate_shape`](Self::validate_shape) accepts.
    pub fn logits_len(&self) -> usize {
        self.elements(self.rows())
    }

    /// From the first element of a row to the last of the last of `rows` rows.
    fn elements(&self, rows: usize) -> usize {
        rows.checked_sub(1)
            .map_or(0, |before| before.saturating_mul(self.row_stride).saturating_add(self.vocab))
    }

    /// Checks that a buffer of logits, or of their gradient, holds the rows of the batch and no more: a longer one would
    /// hide that the batch was described with another shape than the logits have.
    pub(crate) fn check_logits(&self, argument: &'static str, found: usize) -> Result<()> {
        if found == self.rows() * self.row_stride {
            return Ok(());
        }
        let shape = "rows * row_stride, or up to the end of the last row";
        Error::check_len(argument, shape, self.logits_len(), found)
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
        self.check_gradient_of_rows(argument, self.rows(), dtype, logits, gradient)
    }

    /// The same for buffers of `rows` of the rows.
    pub(crate) fn check_gradient_of_rows(
        &self,
        argument: &'static str,
        rows: usize,
        dtype: DType,
        logits: u64,
        gradient: u64,
    ) -> Result<()> {
        let bytes = self.elements(rows).saturating_mul(dtype.size()) as u64;
        if gradient == logits || gradient.abs_diff(logits) >= bytes {
            return Ok(());
        }
        let expected = format!("the logits buffer itself ({logits:#x}) or one at least {bytes} bytes away");
        Err(Error::value(argument, expected, format!("{gradient:#x}")))
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
            if let Some(position) = chosen.iter().zip(rejected).position(|(w, l)| w == l) {
                return Err(Error::Index {
                    argument: "rejected",
                    position,
                    expected: "a sequence other than chosen's".to_string(),
                    found: i64::from(rejected[position]),
                });
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

    /// `[S]`: the number of scored tokens of each sequence, what [`Logps::scored`](crate::Logps::scored) has, from labels
    /// alone.
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, LabelAlignment};
    ///
    /// // Row t predicts labels[t + 1]: the first label of a sequence is never predicted.
    /// let batch = HostBatch::padded(2, 4, 10, LabelAlignment::NextToken);
    /// let labels = [1i64, 5, 6, 7, -100, -100, 8, -100];
    /// assert_eq!(batch.scored_tokens(labels[..].into())?, [3, 1]);
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate), and [`Error::Length`] that names `labels`.
    pub fn scored_tokens(&self, labels: Labels<'_>) -> Result<Vec<u32>> {
        self.validate()?;
        Error::check_len("labels", "[rows]", self.rows(), labels.len())?;
        // Rows are counted in 31 bits.
        Ok((0..self.sequences.count()).map(|s| self.scored_rows(labels, s) as u32).collect())
    }

    /// The scored tokens that a normaliser counts, from labels and the pairs' weights alone: for one that must be known
    /// before the first of several micro-batches has been through a model. A sequence counts once for each pair that it is in,
    /// and not for pairs of weight 0.
    ///
    /// ```
    /// use dpo_kernels::{HostBatch, LabelAlignment};
    ///
    /// // Two pairs of one token each, but for the first chosen sequence, which has two; the second pair is filling.
    /// let batch = HostBatch::padded(4, 2, 10, LabelAlignment::Aligned);
    /// let labels = [1i64, 2, 3, -100, 4, -100, 5, -100];
    /// let tokens = batch.pair_tokens(labels[..].into(), Some(&[1.0, 0.0]))?;
    /// assert_eq!((tokens.chosen, tokens.rejected, tokens.all()), (2, 1, 3));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`scored_tokens`](Self::scored_tokens), and [`Error::Length`] that names `weight`.
    pub fn pair_tokens(&self, labels: Labels<'_>, weight: Option<&[f32]>) -> Result<PairTokens> {
        let (scored, count) = (self.scored_tokens(labels)?, self.pair_count());
        if let Some(weight) = weight {
            Error::check_len("weight", "[pairs]", count, weight.len())?;
        }
        Ok(self.pairs.tokens(count, |i| weight.is_none_or(|weight| weight[i] != 0.0), &scored))
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
}
