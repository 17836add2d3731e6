//! A chunk of rows: its logits, what one read of them gives, and the products of their gradient.

use rayon::prelude::*;

use super::product::{Matrix, MatrixMut};
use super::workspace::{LmHeadWorkspace, for_each_block, grow};
use crate::batch::HostBatch;
use crate::cpu::logps::{RowResult, label_of, read_row};
use crate::cpu::row::row_kernels;
use crate::cpu::row_gradient::{RowEntropy, RowGradient, Source};
use crate::cpu::transform::TransformKind;
use crate::dtype::Logit;
use crate::labels::Labels;
use crate::lm_head::{LmHead, LmHeadGradients};
use crate::results::MetricsLevel;

/// What all chunks of a pass share. Checked.
pub(super) struct Pass<'a, T> {
    pub batch: &'a HostBatch<'a>,
    pub head: &'a LmHead<'a, T>,
    pub labels: Labels<'a>,
}

/// The rows of a chunk, whose logits are in the workspace.
pub(super) struct ChunkRows<'a, T> {
    pass: &'a Pass<'a, T>,
    rows: &'a [usize],
    workspace: &'a mut LmHeadWorkspace,
}

/// What the gradients of a row's log-prob and entropy are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct RowWeights {
    pub coef: f32,
    pub entropy: Option<RowEntropy>,
}

impl RowWeights {
    /// Of G, to which a coefficient comes later.
    pub const G: RowWeights = RowWeights::of_logp(1.0);

    pub const fn of_logp(coef: f32) -> Self {
        RowWeights { coef, entropy: None }
    }

    fn are_zero(&self) -> bool {
        self.coef == 0.0 && self.entropy.is_none_or(|entropy| entropy.coef == 0.0)
    }

    pub fn is_finite(&self) -> bool {
        let finite = |entropy: RowEntropy| entropy.coef.is_finite() && entropy.value.is_finite();
        self.coef.is_finite() && self.entropy.is_none_or(finite)
    }
}

impl<T: Logit> Pass<'_, T> {
    fn columns(&self) -> usize {
        self.batch.columns()
    }

    /// The rows of the weight that are multiplied.
    fn weight(&self) -> &[T] {
        &self.head.weight[..self.columns() * self.head.hidden_size]
    }

    /// The column of a row's label, if it has one.
    pub fn target(&self, row: usize) -> Option<usize> {
        label_of(self.batch, self.labels, row).and_then(|label| self.batch.column(label))
    }

    /// Whether a row's gradients are exactly 0, whatever its logits are; not where its label is a bad one, which is never hidden.
    pub fn skips(&self, row: usize, weights: RowWeights) -> bool {
        weights.are_zero() && self.target(row).is_some()
    }

    /// Makes the logits of some rows: z = X Wᵀ + b.
    pub fn multiply<'a>(&'a self, rows: &'a [usize], workspace: &'a mut LmHeadWorkspace) -> ChunkRows<'a, T> {
        let (columns, hidden_size) = (self.columns(), self.head.hidden_size);
        let LmHeadWorkspace { logits, hidden, weight: scratch, .. } = &mut *workspace;
        grow(hidden, rows.len() * hidden_size);
        hidden.par_chunks_mut(hidden_size).zip(rows).for_each(|(to, &row)| {
            to.iter_mut().zip(self.head.state(row)).for_each(|(to, value)| *to = value.to_f32());
        });
        grow(logits, rows.len() * columns);
        if let Some(bias) = self.head.bias {
            logits[..rows.len() * columns].par_chunks_mut(columns).for_each(|to| {
                to.iter_mut().zip(bias).for_each(|(to, value)| *to = value.to_f32());
            });
        }
        let hidden = Matrix::new(hidden, rows.len(), hidden_size, hidden_size);
        for_each_block(self.weight(), hidden_size, scratch, |first, block| {
            let count = block.len() / hidden_size;
            let block = Matrix::new(block, count, hidden_size, hidden_size).transposed();
            let logits = MatrixMut::new(&mut logits[first..], rows.len(), count, columns);
            if self.head.bias.is_some() {
                logits.add_product(hidden, block);
            } else {
                logits.set_product(hidden, block);
            }
        });
        ChunkRows { pass: self, rows, workspace }
    }
}

impl<T: Logit> ChunkRows<'_, T> {
    /// Log-probs and metrics, into the results of all rows of the batch.
    pub fn read(&mut self, level: MetricsLevel, results: &mut [RowResult]) {
        self.each_row(results, |pass, row, logits, _| pass.read(row, logits, level));
    }

    /// The same, and leaves G where the logits were.
    pub fn read_and_differentiate(&mut self, level: MetricsLevel, results: &mut [RowResult]) {
        self.each_row(results, |pass, row, logits, _| {
            let result = pass.read(row, logits, level);
            pass.differentiate(row, &result, RowWeights::G, logits);
            result
        });
    }

    /// Leaves a gradient where the logits were, of rows whose log-probs are known: G, or with the coefficients of `weights`.
    pub fn differentiate(&mut self, results: &mut [RowResult], weights: impl Fn(usize) -> RowWeights + Sync) {
        self.each_row(results, |pass, row, logits, result| {
            pass.differentiate(row, &result, weights(row), logits);
            result
        });
    }

    fn each_row(
        &mut self,
        results: &mut [RowResult],
        read: impl Fn(&Pass<'_, T>, usize, &mut [f32], RowResult) -> RowResult + Sync,
    ) {
        let (pass, rows, columns) = (self.pass, self.rows, self.pass.columns());
        let logits = &mut self.workspace.logits[..rows.len() * columns];
        let before: &[RowResult] = results;
        let found: Vec<RowResult> = logits
            .par_chunks_mut(columns)
            .zip(rows)
            .map(|(logits, &row)| read(pass, row, logits, before[row]))
            .collect();
        rows.iter().zip(found).for_each(|(&row, result)| results[row] = result);
    }

    /// Adds Gᵀ (diag(c) X) and Gᵀ c to the gradients of weight and bias, whereupon the chunk is spent. A row
    /// whose c is 0 takes no part in them, whatever its logits are.
    pub fn add_to_weight(
        &mut self,
        gradients: &mut LmHeadGradients<'_, T>,
        coef: impl Fn(usize) -> f32 + Sync,
    ) {
        if gradients.weight.is_none() && gradients.bias.is_none() {
            return;
        }
        let (columns, hidden_size) = (self.pass.columns(), self.pass.head.hidden_size);
        let (pass, rows) = (self.pass, self.rows);
        let LmHeadWorkspace { logits, hidden, .. } = &mut *self.workspace;
        let logits = &mut logits[..rows.len() * columns];
        let coef: Vec<f32> = rows.iter().map(|&row| coef(row)).collect();
        logits
            .par_chunks_mut(columns)
            .zip(hidden.par_chunks_mut(hidden_size))
            .zip(rows.par_iter().zip(&coef))
            .for_each(|((gradient, state), (&row, &c))| {
                if pass.skips(row, RowWeights::of_logp(c)) {
                    gradient.fill(0.0);
                    state.fill(0.0);
                } else if c != 1.0 {
                    state.iter_mut().for_each(|value| *value *= c);
                }
            });
        let transposed = Matrix::new(logits, rows.len(), columns, columns).transposed();
        if let Some(dweight) = &mut gradients.weight {
            let scaled = Matrix::new(hidden, rows.len(), hidden_size, hidden_size);
            MatrixMut::new(dweight, columns, hidden_size, hidden_size).add_product(transposed, scaled);
        }
        if let Some(dbias) = &mut gradients.bias {
            MatrixMut::new(dbias, columns, 1, 1)
                .add_product(transposed, Matrix::new(&coef, rows.len(), 1, 1));
        }
    }

    /// The gradient of the hidden states: G W, each row times `coef`, rounded once.
    pub fn write_hidden(
        &mut self,
        gradients: &mut LmHeadGradients<'_, T>,
        coef: impl Fn(usize) -> f32 + Sync,
    ) {
        let Some(dhidden) = &mut gradients.hidden else { return };
        let (columns, hidden_size) = (self.pass.columns(), self.pass.head.hidden_size);
        let LmHeadWorkspace { logits, dhidden: wide, weight: scratch, .. } = &mut *self.workspace;
        let rows = self.rows;
        grow(wide, rows.len() * hidden_size);
        for_each_block(self.pass.weight(), hidden_size, scratch, |first, block| {
            let count = block.len() / hidden_size;
            let gradient = Matrix::new(&logits[first..], rows.len(), count, columns);
            let block = Matrix::new(block, count, hidden_size, hidden_size);
            let wide = MatrixMut::new(wide, rows.len(), hidden_size, hidden_size);
            if first == 0 {
                wide.set_product(gradient, block);
            } else {
                wide.add_product(gradient, block);
            }
        });
        for (&row, wide) in rows.iter().zip(wide.chunks(hidden_size)) {
            let c = coef(row);
            let to = &mut dhidden[row * hidden_size..][..hidden_size];
            if self.pass.skips(row, RowWeights::of_logp(c)) {
                to.fill(T::from_f32(0.0));
            } else {
                to.iter_mut().zip(wide).for_each(|(to, value)| *to = T::from_f32(c * value));
            }
        }
    }
}

impl<T: Logit> Pass<'_, T> {
    fn read(&self, row: usize, logits: &[f32], level: MetricsLevel) -> RowResult {
        let label = label_of(self.batch, self.labels, row);
        match self.target(row) {
            Some(column) => read_row(logits, column, TransformKind::from(&self.batch.transform), level),
            None => RowResult::unread(label),
        }
    }

    fn differentiate(&self, row: usize, result: &RowResult, weights: RowWeights, logits: &mut [f32]) {
        let gradient = RowGradient {
            target: self.target(row),
            logsumexp: result.logp.logsumexp,
            residual: result.logp.residual,
            coef: weights.coef,
            entropy: weights.entropy,
            transform: TransformKind::from(&self.batch.transform),
        };
        row_kernels().write_gradient(gradient, Source::InPlace, false, logits);
    }
}
