//! A chunk of rows: its logits, what one read of them gives, and the products of their gradient, as steps.

use super::arguments::{self, DeviceLmHead, DeviceLmHeadGradients};
use super::launches::{self, Move};
use super::memory::{LmHeadMemory, LmHeadWorkspace, Places, row_stride};
use super::rows::LmHeadRows;
use crate::cuda::address::{DeviceAddress, LogpsBuffers, TokenMetricBuffers, address, optional};
use crate::cuda::params::{DPO_TOKEN_RESULTS, DpoRowCoef, DpoTokenResults};
use crate::cuda::plan::backward::{EntropyBuffers, GradientBuffers, backward};
use crate::cuda::plan::batch::{DeviceBatch, Inputs, kernel_batch};
use crate::cuda::plan::factored::factored;
use crate::cuda::plan::forward::{forward, metrics_level};
use crate::cuda::plan::launch::Launch;
use crate::cuda::plan::loss_arguments::PairLossArguments;
use crate::cuda::plan::product::{Factor, Matrix, Product};
use crate::cuda::plan::steps::{Plan, Step};
use crate::cuda::plan::window::RowWindow;
use crate::cuda::properties::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::labels::LabelType;
use crate::lm_head::{LmHeadPlan, WantedGradients};
use crate::loss::PairLoss;
use crate::results::MetricsLevel;

/// The loss of a pass.
pub struct Loss<'a> {
    pub arguments: &'a PairLossArguments<'a>,
    /// `pair_loss` as steps of its own, for what is known so far.
    pub alone: Plan,
    /// Where it writes c of each sequence.
    pub coef: DeviceAddress,
}

/// Where the coefficients come from, and what the gradient of logits needs of their log-probs: of the scored rows.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    pub logsumexp: DeviceAddress,
    /// 0 where there is none.
    pub residual: DeviceAddress,
    /// Of the rows' entropies, where those have a gradient: in the workspace.
    pub entropy: Option<EntropyBuffers>,
    /// Of sequences; 0 is 1.
    pub coef: DeviceAddress,
    /// 0 is 1.
    pub token_coef: DeviceAddress,
    pub threshold: f32,
}

impl Coefficients {
    /// Those of G, which are 1.
    fn of_g(logsumexp: DeviceAddress, residual: DeviceAddress) -> Self {
        Coefficients { logsumexp, residual, entropy: None, coef: 0, token_coef: 0, threshold: 0.0 }
    }
}

impl Loss<'_> {
    /// Those of this loss.
    pub fn coefficients(&self, pass: &LmHeadPass<'_>) -> Coefficients {
        let [_, logsumexp, residual, token_weights, ..] = pass.places.tokens;
        let token_coef = if pass.batch.ld_alpha == 1.0 { 0 } else { token_weights };
        Coefficients { logsumexp, residual, entropy: None, coef: self.coef, token_coef, threshold: 0.0 }
    }
}

/// A pass through the head, on the way to a plan.
pub struct LmHeadPass<'a> {
    device: &'a Device,
    rows: &'a LmHeadRows,
    entries: DeviceAddress,
    head: &'a DeviceLmHead,
    gradients: &'a DeviceLmHeadGradients,
    memory: &'a LmHeadMemory,
    pub places: Places,
    /// The scored rows.
    pub batch: DeviceBatch,
    pub steps: Vec<Step>,
}

/// Rows that are multiplied together, as runs of the scored rows: the first begins the chunk, and each follows the one before.
pub struct ChunkRows {
    runs: Vec<RowWindow>,
    count: usize,
}

impl ChunkRows {
    /// Of rows in any order.
    fn new(rows: &[usize]) -> Self {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let runs = rows.chunk_by(|a, b| a + 1 == *b);
        let runs = runs.map(|run| RowWindow { first: run[0], end: run[run.len() - 1] + 1 }).collect();
        ChunkRows { runs, count: rows.len() }
    }

    /// Each run, with the place of its first row in the chunk.
    fn runs(&self) -> impl Iterator<Item = (usize, RowWindow)> {
        self.runs.iter().scan(0, |next, run| {
            let first = *next;
            *next += run.rows();
            Some((first, *run))
        })
    }
}

impl<'a> LmHeadPass<'a> {
    /// Checked, without steps.
    pub fn new(
        device: &'a Device,
        rows: &'a LmHeadRows,
        entries: DeviceAddress,
        vocab: usize,
        head: &'a DeviceLmHead,
        gradients: &'a DeviceLmHeadGradients,
        workspace: &'a LmHeadWorkspace,
    ) -> Result<Self> {
        arguments::check(rows, entries, vocab, head, gradients, workspace)?;
        let batch = rows.on_device(entries, row_stride(rows.columns()))?;
        workspace.memory.capacity.check(&batch)?;
        let (places, memory) = (workspace.places()?, &workspace.memory);
        Ok(LmHeadPass { device, rows, entries, head, gradients, memory, places, batch, steps: vec![] })
    }

    /// The chunks, of the scored rows.
    pub fn plan(&self, loss: Option<&PairLoss>, wanted: WantedGradients) -> Result<LmHeadPlan> {
        self.memory.plan(self.rows, loss, wanted)
    }

    /// Where the passes write: for sequences and the batch where the caller says, for rows in the workspace.
    pub fn scored_results(&self, out: &LogpsBuffers) -> Result<LogpsBuffers> {
        let [token_logps, logsumexp, residual, weights, entropy, correct, mean_logit, sum_p2] =
            self.places.tokens;
        Ok(LogpsBuffers {
            token_logps: Some(token_logps),
            logsumexp: Some(logsumexp),
            logsumexp_residual: Some(residual),
            token_weights: Some(weights),
            metrics: out.metrics.map(|metrics| TokenMetricBuffers {
                entropy: metrics.entropy.and(Some(entropy)),
                correct: metrics.correct.and(Some(correct)),
                mean_logit: metrics.mean_logit.and(Some(mean_logit)),
                sum_p2: metrics.sum_p2.and(Some(sum_p2)),
                ..metrics
            }),
            ..*out
        })
    }

    /// The caller's results of rows, in the order of the workspace's.
    fn all_results(&self, out: &LogpsBuffers) -> Result<[DeviceAddress; DPO_TOKEN_RESULTS as usize]> {
        let metrics = out.metrics.unwrap_or_default();
        let given = [
            ("token_logps", out.token_logps),
            ("logsumexp", out.logsumexp),
            ("logsumexp_residual", out.logsumexp_residual),
            ("token_weights", out.token_weights),
            ("entropy", metrics.entropy),
            ("correct", metrics.correct),
            ("mean_logit", metrics.mean_logit),
            ("sum_p2", metrics.sum_p2),
        ];
        let mut all = [0; DPO_TOKEN_RESULTS as usize];
        for (all, (name, given)) in all.iter_mut().zip(given) {
            *all = optional(name, given)?;
        }
        Ok(all)
    }

    /// Results of rows, and the rows that the status names, become those of the caller's batch.
    pub fn token_results(&mut self, out: &LogpsBuffers) -> Result<()> {
        let params = DpoTokenResults {
            scored: self.places.tokens,
            all: self.all_results(out)?,
            names: self.rows.names(self.entries),
            status: address("status", 4, out.status.unwrap_or(0))?,
            scored_rows: self.rows.count() as u32,
            rows: self.rows.all() as u32,
        };
        self.launch(launches::token_results(params));
        Ok(())
    }

    fn launch(&mut self, launch: Launch) {
        self.steps.push(Step::Launch(launch));
    }

    fn product(&self, left: Factor, right: Factor, out: Matrix) -> Product {
        Product {
            left,
            right,
            out,
            accumulate: false,
            bias: None,
            workspace: self.places.product,
            workspace_bytes: self.memory.product_bytes,
        }
    }

    /// dX of rows that no product writes.
    pub fn clear_hidden(&mut self) {
        if let Some(address) = self.gradients.hidden {
            let bytes = self.rows.all() * self.head.hidden_size * self.head.dtype.size();
            self.steps.push(Step::Zero { address, bytes });
        }
    }

    /// The names of a run's rows in the caller's batch.
    fn names(&self, run: RowWindow) -> DeviceAddress {
        self.rows.names(self.entries) + (size_of::<i32>() * run.first) as u64
    }

    /// `[rows]` f32: c of each row as a fraction, where entropies have coefficients.
    fn coef_fraction(&self) -> DeviceAddress {
        self.places.tokens[5]
    }

    /// A chunk's logits.
    fn logits(&self, count: usize) -> Matrix {
        self.of_vocab(self.places.logits, self.memory.logits_dtype, count)
    }

    /// Their gradient, which is in their place where it has their type.
    fn gradient(&self, count: usize) -> Matrix {
        self.of_vocab(self.places.gradient, self.memory.dtype, count)
    }

    fn of_vocab(&self, address: DeviceAddress, dtype: DType, count: usize) -> Matrix {
        Matrix { address, dtype, rows: count, columns: self.batch.vocab, row_stride: self.batch.row_stride }
    }

    fn hidden(&self, count: usize) -> Matrix {
        Matrix::dense(self.places.hidden, self.head.dtype, count, self.head.hidden_size)
    }

    fn dhidden(&self, count: usize) -> Matrix {
        Matrix::dense(self.places.dhidden, DType::F32, count, self.head.hidden_size)
    }

    /// The rows of the weight that are multiplied.
    fn weight(&self) -> Matrix {
        Matrix::dense(self.head.weight, self.head.dtype, self.batch.vocab, self.head.hidden_size)
    }

    /// Where row `first` of a matrix begins.
    fn row_of(matrix: Matrix, first: usize) -> DeviceAddress {
        matrix.address + (first * matrix.row_stride * matrix.dtype.size()) as u64
    }

    /// The one row of a batch without scored rows, which has no logits.
    pub fn one_row(&self) -> ChunkRows {
        debug_assert!(self.rows.is_empty());
        ChunkRows::new(&[0])
    }

    /// Makes the bias one of the logits' type, since a product takes no other.
    pub fn widen_bias(&mut self) {
        if let Some(bias) = self.head.bias.filter(|_| self.memory.narrows()) {
            let from = Matrix::dense(bias, self.head.dtype, 1, self.batch.vocab);
            let to = Matrix::dense(self.places.bias, self.memory.logits_dtype, 1, self.batch.vocab);
            self.launch(Move::all(from, to).launch());
        }
    }

    /// Makes the logits of some rows: z = X Wᵀ + b.
    pub fn multiply(&mut self, rows: &[usize]) -> ChunkRows {
        let chunk = ChunkRows::new(rows);
        let (hidden, head) = (self.hidden(chunk.count), self.head);
        for (first, run) in chunk.runs() {
            let gathered = Move {
                from: (head.hidden, head.dtype),
                to: (Self::row_of(hidden, first), head.dtype),
                columns: head.hidden_size,
                rows: run.rows(),
                from_rows: self.names(run),
                to_rows: 0,
                row_coef: 0,
                nonfinite_row: 0,
            };
            self.launch(gathered.launch());
        }
        let product = self.product(hidden.as_is(), self.weight().transposed(), self.logits(chunk.count));
        let bias = head.bias.map(|bias| if self.memory.narrows() { self.places.bias } else { bias });
        self.steps.push(Step::Product(Product { bias, ..product }));
        chunk
    }

    /// What the passes over logits read of a run, which begins the chunk's row `first`.
    fn inputs(&self, chunk: &ChunkRows, first: usize, run: RowWindow) -> Inputs {
        Inputs {
            dtype: self.memory.logits_dtype,
            logits: Self::row_of(self.logits(chunk.count), first),
            label_type: LabelType::I32,
            labels: self.rows.labels(self.entries),
            window: Some(run),
        }
    }

    /// Log-probs of a chunk; and of the batch, with the loss over its pairs, where it is the last.
    pub fn forward(&mut self, chunk: &ChunkRows, out: &LogpsBuffers, loss: Option<&Loss<'_>>) -> Result<()> {
        let loss = loss.map(|loss| loss.arguments);
        for (first, run) in chunk.runs() {
            let inputs = self.inputs(chunk, first, run);
            self.steps.extend(forward(self.device, &self.batch, &inputs, out, loss, self.places.passes)?);
        }
        Ok(())
    }

    /// The same, and leaves G in its place.
    pub fn factored(&mut self, chunk: &ChunkRows, out: &LogpsBuffers, loss: Option<&Loss<'_>>) -> Result<()> {
        if metrics_level(out) != MetricsLevel::None {
            // It has no token metrics; the other passes read the logits once more.
            self.forward(chunk, out, loss)?;
            let [_, logsumexp, residual, ..] = self.places.tokens;
            return self.differentiate(chunk, Coefficients::of_g(logsumexp, residual));
        }
        let loss = loss.map(|loss| loss.arguments);
        for (first, run) in chunk.runs() {
            let inputs = self.inputs(chunk, first, run);
            let passes = self.places.passes;
            self.steps.extend(factored(self.device, &self.batch, &inputs, out, loss, inputs.logits, passes)?);
        }
        self.narrow(chunk);
        Ok(())
    }

    /// Leaves the gradient in its place, of rows whose log-probs are known: G, to which c comes later; or, where entropies have
    /// coefficients too, what [`row_coef`](Self::row_coef) has made fractions of.
    fn differentiate(&mut self, chunk: &ChunkRows, coefficients: Coefficients) -> Result<()> {
        let Coefficients { logsumexp, residual, entropy, .. } = coefficients;
        let buffers = GradientBuffers {
            logsumexp,
            logsumexp_residual: (residual != 0).then_some(residual),
            coef: None,
            token_coef: entropy.map(|_| self.coef_fraction()),
            entropy,
            upstream: None,
            upstream_scale: 1.0,
            threshold: 0.0,
            nonfinite_row: None,
            dlogits: 0,
        };
        // Weights of tokens are part of c, which the batch is not to ask for.
        let batch = DeviceBatch { ld_alpha: 1.0, ..self.batch };
        for (first, run) in chunk.runs() {
            let inputs = self.inputs(chunk, first, run);
            let buffers = GradientBuffers { dlogits: inputs.logits, ..buffers };
            self.steps.extend(backward(self.device, &batch, &inputs, &buffers)?);
        }
        self.narrow(chunk);
        Ok(())
    }

    /// Rounds a gradient to the type of what it is multiplied with, where the logits had another.
    fn narrow(&mut self, chunk: &ChunkRows) {
        if self.memory.narrows() {
            // With what fills rows up, so that they are whole vectors.
            let whole = |matrix: Matrix| Matrix { columns: matrix.row_stride, ..matrix };
            let (from, to) = (self.logits(chunk.count), self.gradient(chunk.count));
            self.launch(Move::all(whole(from), whole(to)).launch());
        }
    }

    /// What a chunk's gradient is still to be multiplied by, in the order of its rows: c; or, where entropies have coefficients too,
    /// the larger of the two, of which they become fractions; and 0 for a row that takes no part.
    pub fn row_coef(&mut self, chunk: &ChunkRows, coefficients: Coefficients) -> Result<()> {
        for (first, run) in chunk.runs() {
            let inputs = self.inputs(chunk, first, run);
            let (batch, _) = kernel_batch(&self.batch, &inputs)?;
            let params = DpoRowCoef {
                batch,
                coef: coefficients.coef,
                token_coef: coefficients.token_coef,
                entropy: coefficients.entropy.map_or(0, |entropy| entropy.entropy),
                entropy_coef: coefficients.entropy.map_or(0, |entropy| entropy.coef),
                coef_fraction: coefficients.entropy.map_or(0, |_| self.coef_fraction()),
                upstream: self.gradients.upstream.unwrap_or(0),
                logsumexp: coefficients.logsumexp,
                names: self.rows.names(self.entries),
                row_coef: self.places.row_coef + (size_of::<f32>() * first) as u64,
                nonfinite_row: self.gradients.nonfinite_row.unwrap_or(0),
                upstream_scale: self.gradients.upstream_scale,
                threshold: coefficients.threshold,
            };
            self.launch(launches::row_coef(params));
        }
        Ok(())
    }

    /// Adds Gᵀ (diag(c) X) and Gᵀ c to the gradients of weight and bias. A row whose c is 0 takes no part in them.
    pub fn add_to_weight(&mut self, chunk: &ChunkRows) {
        let row_coef = self.places.row_coef;
        let gradient = self.gradient(chunk.count);
        if let Some(dbias) = self.gradients.bias {
            self.launch(launches::bias_gradient(gradient, row_coef, dbias));
        }
        let Some(dweight) = self.gradients.weight else { return };
        let hidden = self.hidden(chunk.count);
        self.launch(Move { row_coef, ..Move::all(hidden, hidden) }.launch());
        self.launch(launches::clear_rows(gradient, row_coef));
        let out = Matrix::dense(dweight, DType::F32, gradient.columns, hidden.columns);
        let product = self.product(gradient.transposed(), hidden.as_is(), out);
        self.steps.push(Step::Product(Product { accumulate: true, ..product }));
    }

    /// The gradient of the hidden states: G W to its rows, each times c where c is known.
    pub fn write_hidden(&mut self, chunk: &ChunkRows, coef_is_known: bool) {
        let Some(dhidden) = self.gradients.hidden else { return };
        let wide = self.dhidden(chunk.count);
        let product = self.product(self.gradient(chunk.count).as_is(), self.weight().as_is(), wide);
        self.steps.push(Step::Product(product));
        for (first, run) in chunk.runs() {
            let (row_coef, nonfinite_row) = if coef_is_known {
                let row_coef = self.places.row_coef + (size_of::<f32>() * first) as u64;
                (row_coef, self.gradients.nonfinite_row.unwrap_or(0))
            } else {
                (0, 0)
            };
            let scattered = Move {
                from: (Self::row_of(wide, first), DType::F32),
                to: (dhidden, self.head.dtype),
                columns: wide.columns,
                rows: run.rows(),
                from_rows: 0,
                to_rows: self.names(run),
                row_coef,
                nonfinite_row,
            };
            self.launch(scattered.launch());
        }
    }

    /// c comes to G W at the end, where it stands.
    pub fn scale_hidden(&mut self, coefficients: Coefficients) -> Result<()> {
        let Some(dhidden) = self.gradients.hidden else { return Ok(()) };
        let every = RowWindow { first: 0, end: self.rows.count() };
        self.row_coef(&ChunkRows { runs: vec![every], count: every.rows() }, coefficients)?;
        let scaled = Move {
            from: (dhidden, self.head.dtype),
            to: (dhidden, self.head.dtype),
            columns: self.head.hidden_size,
            rows: every.rows(),
            from_rows: self.names(every),
            to_rows: self.names(every),
            row_coef: self.places.row_coef,
            nonfinite_row: self.gradients.nonfinite_row.unwrap_or(0),
        };
        self.launch(scaled.launch());
        Ok(())
    }

    /// The gradients of rows whose log-probs are known, from logits that are made again.
    pub fn sweep(&mut self, rows: &[usize], coefficients: Coefficients) -> Result<()> {
        let chunk = self.multiply(rows);
        self.row_coef(&chunk, coefficients)?;
        self.differentiate(&chunk, coefficients)?;
        self.add_to_weight(&chunk);
        self.write_hidden(&chunk, true);
        Ok(())
    }
}
