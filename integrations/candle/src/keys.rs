//! The keys under which log-probs of sequences are kept on disk.

use candle_core::{DType, Result, Tensor};
use dpo_kernels::ref_cache::SequenceKey;

use crate::checks;
use crate::cpu::HostTargets;
use crate::targets::Targets;

impl Targets {
    /// `[S]` keys under which a [`RefCache`](dpo_kernels::ref_cache::RefCache) keeps log-probs of the
    /// sequences. `tokens` are the ids that the model is given, of the labels' shape, in u32 or i64. From a
    /// GPU, tokens and labels are copied to the host.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dpo_kernels_candle::{LabelAlignment, Targets};
    ///
    /// let tokens = Tensor::new(&[[7u32, 3, 1], [7, 2, 0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[[-100i64, 3, 1], [-100, 2, 0]], &Device::Cpu)?;
    /// let keys = Targets::padded(&labels, LabelAlignment::NextToken)?.sequence_keys(&tokens)?;
    /// assert!(keys.len() == 2 && keys[0] != keys[1]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If `tokens` has another shape or type; a [`dpo_kernels::Error`] in candle's for targets that make no
    /// batch.
    pub fn sequence_keys(&self, tokens: &Tensor) -> Result<Vec<SequenceKey>> {
        checks::dtype("tokens (u32 or i64)", tokens, &[DType::U32, DType::I64])?;
        checks::shape("tokens", tokens, self.labels.dims())?;
        let ids = tokens.flatten_all()?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        // Keys do not depend on the logits: any vocabulary serves that the transform fits.
        let vocab = self.transform.valid_vocab.unwrap_or(1);
        let targets = HostTargets::new(self, vocab, vocab)?;
        Ok(targets.batch().sequence_keys(&ids, targets.labels())?)
    }
}
