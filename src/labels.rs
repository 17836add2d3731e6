//! Labels: which token a row of logits is to predict.

/// The label of a position that is not scored, unless [`Batch::ignore_index`](crate::Batch::ignore_index) says otherwise
/// (PyTorch's value).
pub const IGNORE_INDEX: i64 = -100;

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

/// Which label a row of logits predicts: said where a batch is made, since both are usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LabelAlignment {
    /// Row `r` predicts `labels[r]`: the labels are already shifted.
    Aligned,
    /// Row `t` of a sequence predicts `labels[t + 1]`, and the last row is ignored: Hugging Face's unshifted
    /// tensors, as they are.
    NextToken,
}
