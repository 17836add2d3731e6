//! What logits are scored against.

use candle_core::{DType, Result, Tensor};
use dpo_kernels::batch::IGNORE_INDEX;
use dpo_kernels::{Batch, LabelAlignment, Pairs, Sequences};

use crate::checks;
use crate::rows::Rows;

/// Labels, and how their rows form sequences and pairs.
///
/// The defaults are those of Hugging Face's tensors: labels as long as the input and not shifted
/// ([`LabelAlignment::NextToken`]), −100 where nothing is scored, all chosen sequences before all rejected ones
/// ([`Pairs::Concatenated`]).
///
/// All tensors are on the device of the logits. One value serves the reference's pass and the policy's.
#[derive(Debug, Clone)]
pub struct Targets {
    /// `[S, T]` or `[rows]`, contiguous, i64 or i32.
    pub(crate) labels: Tensor,
    /// `[S + 1]` i32 or u32, if the sequences are packed.
    pub(crate) cu_seqlens: Option<Tensor>,
    /// Indices are `[N]` i32 or u32.
    pub(crate) pairs: Pairs<Tensor>,
    pub(crate) label_alignment: LabelAlignment,
    pub(crate) ignore_index: i64,
}

impl Targets {
    /// Sequences of one length, filled up with the ignore index: `labels` is `[S, T]` in i64, i32 or u32.
    ///
    /// # Errors
    ///
    /// If `labels` has another shape or type.
    pub fn padded(labels: &Tensor) -> Result<Self> {
        checks::rank("labels", labels, 2)?;
        Targets::new(labels, None)
    }

    /// Sequences one after the other: `labels` is `[rows]` in i64, i32 or u32, and sequence s is rows
    /// `cu_seqlens[s]` to `cu_seqlens[s + 1]`; `cu_seqlens` is `[S + 1]` in i64, i32 or u32.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dpo_kernels_candle::Targets;
    ///
    /// // One pair: three tokens chosen, two rejected.
    /// let labels = Tensor::new(&[-100i64, 3, 1, -100, 2], &Device::Cpu)?;
    /// let targets = Targets::packed(&labels, &Tensor::new(&[0u32, 3, 5], &Device::Cpu)?)?;
    /// assert_eq!(targets.sequences(), 2);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `labels` or `cu_seqlens` has another shape or type, or they are on different devices.
    pub fn packed(labels: &Tensor, cu_seqlens: &Tensor) -> Result<Self> {
        checks::rank("labels", labels, 1)?;
        let cu_seqlens = indices("cu_seqlens", "cu_seqlens (i64, i32 or u32)", cu_seqlens, labels)?;
        Targets::new(labels, Some(cu_seqlens))
    }

    fn new(labels: &Tensor, cu_seqlens: Option<Tensor>) -> Result<Self> {
        checks::dtype("labels (i64, i32 or u32)", labels, &[DType::I64, DType::I32, DType::U32])?;
        let labels = if labels.dtype() == DType::U32 { &labels.to_dtype(DType::I64)? } else { labels };
        Ok(Targets {
            labels: labels.contiguous()?,
            cu_seqlens,
            pairs: Pairs::Concatenated,
            label_alignment: LabelAlignment::NextToken,
            ignore_index: IGNORE_INDEX,
        })
    }

    /// Which sequences are chosen and which rejected; index tensors are `[N]` in i64, i32 or u32.
    ///
    /// # Errors
    ///
    /// If an index tensor has another shape or type, or is on another device than the labels.
    pub fn with_pairs(self, pairs: Pairs<Tensor>) -> Result<Self> {
        let pairs = match pairs {
            Pairs::Indexed { chosen, rejected } => Pairs::Indexed {
                chosen: indices("chosen", "chosen (i64, i32 or u32)", &chosen, &self.labels)?,
                rejected: indices("rejected", "rejected (i64, i32 or u32)", &rejected, &self.labels)?,
            },
            Pairs::Unpaired { desirable } => Pairs::Unpaired {
                desirable: indices("desirable", "desirable (i64, i32 or u32)", &desirable, &self.labels)?,
            },
            layout => layout,
        };
        Ok(Targets { pairs, ..self })
    }

    /// Which label a row of logits predicts.
    pub fn with_label_alignment(self, label_alignment: LabelAlignment) -> Self {
        Targets { label_alignment, ..self }
    }

    /// The label of positions that are not scored: the padding token, say, where labels are u32.
    pub fn with_ignore_index(self, ignore_index: i64) -> Self {
        Targets { ignore_index, ..self }
    }

    /// Number of sequences S.
    pub fn sequences(&self) -> usize {
        match &self.cu_seqlens {
            Some(cu_seqlens) => cu_seqlens.elem_count().saturating_sub(1),
            None => self.labels.dims()[0],
        }
    }

    /// The batch that `rows` are, with what `index` makes of each index array.
    pub(crate) fn batch<A>(
        &self,
        rows: &Rows,
        mut index: impl FnMut(&Tensor) -> Result<A>,
    ) -> Result<Batch<A>> {
        let sequences = match (&self.cu_seqlens, self.labels.dims()) {
            (Some(cu_seqlens), dims) => Sequences::Packed { cu_seqlens: index(cu_seqlens)?, rows: dims[0] },
            (None, dims) => Sequences::Padded { count: dims[0], len: dims[1] },
        };
        let pairs = match &self.pairs {
            Pairs::None => Pairs::None,
            Pairs::Concatenated => Pairs::Concatenated,
            Pairs::Interleaved => Pairs::Interleaved,
            Pairs::Indexed { chosen, rejected } => {
                Pairs::Indexed { chosen: index(chosen)?, rejected: index(rejected)? }
            }
            Pairs::Unpaired { desirable } => Pairs::Unpaired { desirable: index(desirable)? },
        };
        Ok(Batch {
            row_stride: rows.stride,
            pairs,
            label_alignment: self.label_alignment,
            ignore_index: self.ignore_index,
            ..Batch::new(rows.vocab, sequences)
        })
    }
}

/// An index array as contiguous i32 or u32. (candle's CUDA backend does not convert to i32.)
fn indices(name: &'static str, accepted: &'static str, tensor: &Tensor, labels: &Tensor) -> Result<Tensor> {
    checks::rank(name, tensor, 1)?;
    checks::dtype(accepted, tensor, &[DType::I32, DType::I64, DType::U32])?;
    checks::same_device(name, tensor, labels)?;
    let tensor = if tensor.dtype() == DType::I64 { &tensor.to_dtype(DType::U32)? } else { tensor };
    tensor.contiguous()
}
