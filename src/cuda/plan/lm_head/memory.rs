//! Where a pass through the head has its chunk, and all that the caller does not ask for.

use super::rows::LmHeadRows;
use crate::cuda::address::{DeviceAddress, address};
use crate::cuda::params::{DPO_TOKEN_RESULTS, DpoStatus};
use crate::cuda::plan::capacity::Capacity;
use crate::cuda::plan::workspace::Workspace;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::lm_head::{LmHeadPlan, WantedGradients, check_hidden_size, rows_within};
use crate::loss::PairLoss;

/// Elements to a multiple of which rows of logits are filled up, so that each begins on a 16-byte boundary, as the fastest
/// products want it.
const ROW_ELEMENTS: usize = 8;

/// To what each part of the workspace is aligned: what allocators give, and cuBLASLt asks for.
const ALIGNMENT: u64 = 256;

/// How large the passes through a head may be that memory was allocated for.
///
/// ```
/// use dpo_kernels::DType;
/// use dpo_kernels::cuda::plan::{Capacity, LmHeadMemory};
///
/// let capacity = Capacity { sequences: 16, rows: 8192, pairs: 8, vocab: 128_256 };
/// let memory = LmHeadMemory::new(capacity, DType::BF16, 4096);
/// // 512 MiB of logits, which are 2092 rows, with their hidden states; 32 MiB for the products; and some numbers for each row.
/// assert_eq!(memory.budget_bytes, 2092 * memory.bytes_per_row(128_256));
/// assert!((590 << 20..605 << 20).contains(&memory.workspace_bytes()?));
/// // As many rows with logits of f32.
/// let wide = memory.with_logits(DType::F32);
/// assert_eq!(wide.budget_bytes, 2092 * wide.bytes_per_row(128_256));
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LmHeadMemory {
    /// Of the batches. `rows` may be those that are [scored](super::LmHeadRows::count), for they are all that is multiplied.
    pub capacity: Capacity,
    /// Of hidden states and weight.
    pub dtype: DType,
    /// Of a chunk's logits: the same, as models have them; or f32, where products are not rounded before log-probs come of them.
    ///
    /// What it is worth to round no logits: of answers of 64 tokens, with logits of a deviation of 3, the CPU head's sums of log-probs are
    /// off by 3e-5 nats, and those of other libraries' heads there, whose logits are bf16, by 0.16 (benches/RESULTS.md).
    pub logits_dtype: DType,
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// Bytes of a chunk at most, of which a row takes [`bytes_per_row`](Self::bytes_per_row).
    pub budget_bytes: usize,
    /// Bytes that each product may work in.
    pub product_bytes: usize,
}

impl LmHeadMemory {
    /// Bytes of a chunk's logits where nothing else is said.
    pub const DEFAULT_LOGITS_BYTES: usize = 512 << 20;
    /// Bytes that a product may work in where nothing else is said: what cuBLASLt's own documentation advises on recent devices.
    pub const DEFAULT_PRODUCT_BYTES: usize = 32 << 20;

    /// With logits in the dtype, a budget for [so many bytes](Self::DEFAULT_LOGITS_BYTES) of them and what their rows take beside
    /// them, and the usual memory for products; change the fields that differ.
    pub fn new(capacity: Capacity, dtype: DType, hidden_size: usize) -> Self {
        let product_bytes = Self::DEFAULT_PRODUCT_BYTES;
        LmHeadMemory { capacity, dtype, logits_dtype: dtype, hidden_size, budget_bytes: 0, product_bytes }
            .with_logits(dtype)
    }

    /// With logits of another [type](Self::logits_dtype), and a budget for as many rows as have
    /// [so many bytes](Self::DEFAULT_LOGITS_BYTES) of logits in the dtype, as before.
    #[must_use]
    pub fn with_logits(self, logits_dtype: DType) -> Self {
        let memory = LmHeadMemory { logits_dtype, ..self };
        let logits = row_stride(self.capacity.vocab).saturating_mul(self.dtype.size());
        let rows = (Self::DEFAULT_LOGITS_BYTES / logits.max(1)).max(1);
        LmHeadMemory {
            budget_bytes: memory.bytes_per_row(self.capacity.vocab).saturating_mul(rows),
            ..memory
        }
    }

    /// Bytes that a row takes of a chunk where the weight has so many `columns` that are multiplied: its logits, and its gradient G in
    /// their place, or in the dtype beside them where they are f32 and that is not; its hidden state in the dtype; and the gradient of
    /// that in f32.
    pub fn bytes_per_row(&self, columns: usize) -> usize {
        let gradient = if self.narrows() { self.dtype.size() } else { 0 };
        let logits = row_stride(columns).saturating_mul(self.logits_dtype.size() + gradient);
        logits.saturating_add(self.hidden_size.saturating_mul(self.dtype.size() + size_of::<f32>()))
    }

    /// Whether G has another type than the logits, and so a place of its own.
    pub(super) fn narrows(&self) -> bool {
        self.logits_dtype != self.dtype
    }

    /// Whether a bias is widened, to be added to logits of another type.
    fn widened_bias_bytes(&self) -> usize {
        if self.narrows() { self.capacity.vocab.saturating_mul(self.logits_dtype.size()) } else { 0 }
    }

    /// Bytes of a workspace of this size, aligned to 256, which are zeroed once, after allocation.
    ///
    /// # Errors
    ///
    /// Those of [`Capacity::validate`]; [`Error::Value`] that names `hidden_size`, `logits_dtype` where that is neither the dtype nor
    /// f32, or `budget_bytes` where that is below one row.
    pub fn workspace_bytes(&self) -> Result<usize> {
        Ok(LmHeadWorkspace { address: ALIGNMENT, memory: *self }.places()?.end as usize - ALIGNMENT as usize)
    }

    /// What [`lm_head`](super::lm_head()) will do with these rows: the ways of the chunks, and how many products they take.
    ///
    /// ```
    /// use dpo_kernels::cuda::plan::{LmHeadMemory, LmHeadRows};
    /// use dpo_kernels::{DType, HostBatch, LabelAlignment, WantedGradients, Way};
    ///
    /// let batch = HostBatch::padded(2, 3, 1000, LabelAlignment::Aligned);
    /// let rows = LmHeadRows::new(&batch, [7i64; 6][..].into())?;
    /// let mut memory = LmHeadMemory::new(rows.capacity(), DType::BF16, 64);
    /// memory.budget_bytes = 4 * memory.bytes_per_row(1000);
    /// let plan = memory.plan(&rows, None, WantedGradients::default())?;
    /// assert_eq!((plan.chunks().len(), plan.chunks()[0].way), (2, Way::Logps));
    /// # Ok::<(), dpo_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`workspace_bytes`](Self::workspace_bytes) and of [`LmHeadPlan::new`], and [`Error::Value`] for rows beyond the
    /// capacity.
    pub fn plan(
        &self,
        rows: &LmHeadRows,
        loss: Option<&PairLoss>,
        wanted: WantedGradients,
    ) -> Result<LmHeadPlan> {
        self.workspace_bytes()?;
        let (batch, labels) = rows.on_host()?;
        self.capacity.check(&batch)?;
        let bytes_per_row = self.bytes_per_row(batch.vocab);
        // As many rows as there is room for, of which each may be smaller than the largest.
        let budget = bytes_per_row.saturating_mul(self.most_rows()?);
        LmHeadPlan::new(&batch, labels, loss, wanted, bytes_per_row, budget)
    }

    /// Refuses a head that is not the one that the memory is for.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] that names `head`.
    pub fn check_head(&self, dtype: DType, hidden_size: usize) -> Result<()> {
        if (self.dtype, self.hidden_size) == (dtype, hidden_size) {
            return Ok(());
        }
        let expected =
            format!("the workspace's {} and hidden_size = {}", self.dtype.name(), self.hidden_size);
        Err(Error::value("head", expected, format!("{} and {hidden_size}", dtype.name())))
    }

    /// Rows of the largest chunk that there is room for.
    pub(super) fn most_rows(&self) -> Result<usize> {
        Ok(rows_within(self.budget_bytes, self.bytes_per_row(self.capacity.vocab))?.min(self.capacity.rows))
    }
}

/// The workspace of passes through the head: memory of the caller's. It has a chunk of rows, what their products work in, and
/// what the passes over logits keep between launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LmHeadWorkspace {
    /// Where it starts, aligned to 256.
    pub address: DeviceAddress,
    /// What it is laid out for. One pass after the other may use it, as long as that stays the same.
    pub memory: LmHeadMemory,
}

/// Elements from one row of a chunk's logits to the next.
pub(super) fn row_stride(columns: usize) -> usize {
    columns.checked_next_multiple_of(ROW_ELEMENTS).unwrap_or(columns)
}

/// Where a workspace has what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// Of the passes over logits.
    pub passes: Workspace,
    /// `[rows]` f32 each, in the order of the scored rows.
    pub tokens: [DeviceAddress; DPO_TOKEN_RESULTS as usize],
    /// `[rows]` f32: c.
    pub row_coef: DeviceAddress,
    /// What a loss over pairs that are not through yet finds is of no account.
    pub status: DeviceAddress,
    /// `[rows, row stride]` of the largest chunk.
    pub logits: DeviceAddress,
    /// `[rows, row stride]` of the same: G, in the place of the logits where it has their type.
    pub gradient: DeviceAddress,
    /// `[vocab]` in the logits' type, where a bias has another.
    pub bias: DeviceAddress,
    /// `[rows, hidden_size]` of the chunk.
    pub hidden: DeviceAddress,
    /// `[rows, hidden_size]` of the chunk, f32.
    pub dhidden: DeviceAddress,
    /// What a product works in.
    pub product: DeviceAddress,
    /// One past the last byte.
    pub end: DeviceAddress,
}

impl LmHeadWorkspace {
    pub(super) fn places(&self) -> Result<Places> {
        let LmHeadMemory { capacity, dtype, logits_dtype, hidden_size, product_bytes, .. } = self.memory;
        check_hidden_size(hidden_size)?;
        if ![dtype, DType::F32].contains(&logits_dtype) {
            let expected =
                if dtype == DType::F32 { "f32".into() } else { format!("{} or f32", dtype.name()) };
            return Err(Error::value("logits_dtype", expected, logits_dtype.name()));
        }
        let passes = capacity.workspace_bytes()?;
        let chunk_rows = self.memory.most_rows()?;
        let start = address("workspace", ALIGNMENT as usize, self.address)?;
        let mut end = Some(start);
        let mut reserve = |bytes: Option<usize>| {
            let place = end.unwrap_or(start);
            end = end.zip(bytes).and_then(|(end, bytes)| end.checked_add(bytes as u64));
            end = end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
            place
        };
        let matrix = |columns: usize, element: usize| chunk_rows.checked_mul(columns)?.checked_mul(element);
        let floats = capacity.rows.checked_mul(size_of::<f32>());
        let passes = Workspace { address: reserve(Some(passes)), capacity: Some(capacity) };
        let tokens = std::array::from_fn(|_| reserve(floats));
        let row_coef = reserve(floats);
        let status = reserve(Some(size_of::<DpoStatus>()));
        let logits = reserve(matrix(row_stride(capacity.vocab), logits_dtype.size()));
        let gradient = if self.memory.narrows() {
            reserve(matrix(row_stride(capacity.vocab), dtype.size()))
        } else {
            logits
        };
        let bias = reserve(Some(self.memory.widened_bias_bytes()));
        let hidden = reserve(matrix(hidden_size, dtype.size()));
        let dhidden = reserve(matrix(hidden_size, size_of::<f32>()));
        let product = reserve(Some(product_bytes));
        let end = end.ok_or_else(|| {
            let expected = "memory that does not reach beyond the last address";
            Error::value("workspace", expected, format!("{start:#x}"))
        })?;
        Ok(Places { passes, tokens, row_coef, status, logits, gradient, bias, hidden, dhidden, product, end })
    }
}
