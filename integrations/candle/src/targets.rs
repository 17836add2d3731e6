//! What logits are scored against, and how.

use candle_core::{DType, Result, Shape, Tensor};
use dpo_kernels::{Batch, IGNORE_INDEX, LabelAlignment, MetricsLevel, Pairs, Sequences, Transform, memory};

use crate::checks;

/// Labels, how their rows form sequences and pairs, and what is made of the logits.
///
/// Which label a row of logits predicts has no default, because either alignment gives numbers that look
/// right. Labels of Hugging Face's, which are as long as the input and not shifted, are
/// [`LabelAlignment::NextToken`]; labels that were shifted beforehand are [`LabelAlignment::Aligned`]. The
/// rest is as in Hugging Face's tensors unless told otherwise: −100 where nothing is scored, all chosen
/// sequences before all rejected ones ([`Pairs::Concatenated`]); the logits are taken as they are, and all
/// tokens count alike.
///
/// All tensors are on the device of the logits; or, for a [head](crate::LmHead) on a GPU, on the CPU. One value serves the reference's pass and the policy's.
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
    pub(crate) transform: Transform,
    pub(crate) ld_alpha: f32,
    pub(crate) metrics: MetricsLevel,
}

impl Targets {
    /// Sequences of one length, filled up with the ignore index: `labels` is `[S, T]` in i64, i32 or u32.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dpo_kernels_candle::{LabelAlignment, Targets};
    ///
    /// // One pair: after a prompt of one token, two tokens are scored in the chosen sequence, one in the other.
    /// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, -100]], &Device::Cpu)?;
    /// assert_eq!(Targets::padded(&labels, LabelAlignment::NextToken)?.sequences(), 2);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `labels` has another shape or type.
    pub fn padded(labels: &Tensor, label_alignment: LabelAlignment) -> Result<Self> {
        checks::rank("labels", labels, 2)?;
        Targets::new(labels, None, label_alignment)
    }

    /// Sequences one after the other: `labels` is `[rows]` in i64, i32 or u32, and sequence s is rows
    /// `cu_seqlens[s]` to `cu_seqlens[s + 1]`; `cu_seqlens` is `[S + 1]` in i64, i32 or u32.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dpo_kernels_candle::{LabelAlignment, Targets};
    ///
    /// // One pair: three tokens chosen, two rejected.
    /// let labels = Tensor::new(&[-100i64, 3, 1, -100, 2], &Device::Cpu)?;
    /// let cu_seqlens = Tensor::new(&[0u32, 3, 5], &Device::Cpu)?;
    /// let targets = Targets::packed(&labels, &cu_seqlens, LabelAlignment::NextToken)?;
    /// assert_eq!(targets.sequences(), 2);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `labels` or `cu_seqlens` has another shape or type, or they are on different devices.
    pub fn packed(labels: &Tensor, cu_seqlens: &Tensor, label_alignment: LabelAlignment) -> Result<Self> {
        checks::rank("labels", labels, 1)?;
        let cu_seqlens = indices("cu_seqlens", "cu_seqlens (i64, i32 or u32)", cu_seqlens, labels)?;
        Targets::new(labels, Some(cu_seqlens), label_alignment)
    }

    fn new(labels: &Tensor, cu_seqlens: Option<Tensor>, label_alignment: LabelAlignment) -> Result<Self> {
        checks::dtype("labels (i64, i32 or u32)", labels, &[DType::I64, DType::I32, DType::U32])?;
        let labels = if labels.dtype() == DType::U32 { &labels.to_dtype(DType::I64)? } else { labels };
        Ok(Targets {
            labels: labels.contiguous()?,
            cu_seqlens,
            pairs: Pairs::Concatenated,
            label_alignment,
            ignore_index: IGNORE_INDEX,
            transform: Transform::default(),
            ld_alpha: 1.0,
            metrics: MetricsLevel::None,
        })
    }

    /// Which sequences are chosen and which rejected; index tensors are `[N]` in i64, i32 or u32.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dpo_kernels_candle::{LabelAlignment, Pairs, Targets};
    ///
    /// let labels = Tensor::new(&[[-100i64, 3], [-100, 2], [-100, 4]], &Device::Cpu)?;
    /// // Sequence 0 was preferred to both of the others.
    /// let chosen = Tensor::new(&[0u32, 0], &Device::Cpu)?;
    /// let rejected = Tensor::new(&[1u32, 2], &Device::Cpu)?;
    /// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
    /// let targets = targets.with_pairs(Pairs::Indexed { chosen, rejected })?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
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

    /// The label of positions that are not scored: the padding token, say, where labels are u32.
    #[must_use]
    pub fn with_ignore_index(self, ignore_index: i64) -> Self {
        Targets { ignore_index, ..self }
    }

    /// What the model does to its logits before the softmax: a scale (1/temperature), a tanh soft cap,
    /// padding of the vocabulary. The transform is made inside the pass; the gradient is by the logits as
    /// they were given.
    ///
    /// What a transform may be is checked where the logits are known, by [`dpo_loss`](crate::dpo_loss) and
    /// [`sequence_logps`](crate::sequence_logps).
    #[must_use]
    pub fn with_transform(self, transform: Transform) -> Self {
        Targets { transform, ..self }
    }

    /// LD-DPO (Liu et al. 2024, arXiv:2409.06411): the weight, from 0 to 1, of the scored tokens of a
    /// sequence beyond as many as the other of its pair has. Pairs must be concatenated or interleaved.
    /// Log-probs are weighted sums then, those of the reference too.
    ///
    /// The range is checked where [`with_transform`](Self::with_transform)'s values are.
    #[must_use]
    pub fn with_ld_alpha(self, ld_alpha: f32) -> Self {
        Targets { ld_alpha, ..self }
    }

    /// Makes [`dpo_loss`](crate::dpo_loss) give [`token_metrics`](crate::DpoOutput::token_metrics) up to
    /// `level`, from the same read of the logits. The entropy alone costs least.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use dpo_kernels_candle::{LabelAlignment, MetricsLevel, PairInputs, PairLoss, Targets, dpo_loss};
    ///
    /// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
    /// let targets = Targets::padded(&labels, LabelAlignment::NextToken)?;
    /// let targets = targets.with_token_metrics(MetricsLevel::Entropy);
    /// let logits = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
    /// let ref_logps = Tensor::new(&[-4.2f32, -4.1], &Device::Cpu)?;
    /// let inputs = PairInputs::reference(&ref_logps);
    /// let output = dpo_loss(&logits, &targets, &inputs, &PairLoss::sigmoid(0.1)?)?;
    /// assert_eq!(output.token_metrics.entropy.unwrap().dims(), [2, 3]);
    /// assert!(output.token_metrics.correct.is_none());
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    #[must_use]
    pub fn with_token_metrics(self, level: MetricsLevel) -> Self {
        Targets { metrics: level, ..self }
    }

    /// Number of sequences S.
    pub fn sequences(&self) -> usize {
        match &self.cu_seqlens {
            Some(cu_seqlens) => cu_seqlens.elem_count().saturating_sub(1),
            None => self.labels.dims()[0],
        }
    }

    /// Number of pairs N.
    pub(crate) fn pairs(&self) -> usize {
        match &self.pairs {
            Pairs::None => 0,
            Pairs::Concatenated | Pairs::Interleaved => self.sequences() / 2,
            Pairs::Indexed { chosen, .. } => chosen.elem_count(),
            Pairs::Unpaired { .. } => self.sequences(),
        }
    }

    /// The batch of rows of `vocab` logits, `stride` apart, with what `index` makes of each index array.
    pub(crate) fn batch<'a, A>(
        &'a self,
        vocab: usize,
        stride: usize,
        mut index: impl FnMut(&'a Tensor) -> Result<A>,
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
            vocab,
            row_stride: stride,
            sequences,
            pairs,
            label_alignment: self.label_alignment,
            ignore_index: self.ignore_index,
            transform: self.transform,
            ld_alpha: self.ld_alpha,
        })
    }

    /// These targets for a pass without a loss, which does not look at pairs unless it needs them for
    /// LD-DPO's weights.
    pub(crate) fn without_loss(&self) -> Targets {
        let pairs = if self.ld_alpha == 1.0 { Pairs::None } else { self.pairs.clone() };
        Targets { pairs, ..self.clone() }
    }

    /// The shape of a result's tensor: what there is one of for each row has the labels' shape.
    pub(crate) fn shape_of(&self, shape: memory::Shape) -> Shape {
        match shape {
            memory::Shape::Sequences => self.sequences().into(),
            memory::Shape::Rows => self.labels.shape().clone(),
            memory::Shape::Pairs => self.pairs().into(),
        }
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
