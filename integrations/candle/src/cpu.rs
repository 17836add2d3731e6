//! The operation on CPU storage.

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, WithDType,
};
use dpo_kernels::batch::Logps;
use dpo_kernels::cpu::{self, Forward};
use dpo_kernels::loss::PairTensors;
use dpo_kernels::{Batch, Coef, HostBatch, Labels, Logit, PairLoss};

use crate::inputs::PairInputs;
use crate::output::{BatchMetrics, DpoOutput, Means, TokenMetrics};
use crate::rows::Rows;
use crate::targets::Targets;

/// Evaluates `$body` with `$logits` bound to the elements of a CPU tensor, as a slice of their own type.
macro_rules! with_slice {
    ($tensor:expr, |$logits:ident| $body:expr) => {{
        let (storage, layout) = $tensor.storage_and_layout();
        let start = layout.start_offset();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                let $logits = &values[start..];
                $body
            }
            Storage::Cpu(CpuStorage::F16(values)) => {
                let $logits = &values[start..];
                $body
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let $logits = &values[start..];
                $body
            }
            _ => unreachable!("Rows admits no other type, and the device is the CPU"),
        }
    }};
}

/// Log-probs of the sequences, and metrics of the tokens where they are asked for.
pub(crate) fn logps(rows: &Rows, targets: &Targets) -> Result<(Tensor, Option<TokenMetrics>)> {
    let host = HostTargets::new(targets, rows.vocab, rows.stride)?;
    let batch = host.batch();
    let batch = HostBatch { pairs: targets.pairs_of_logps(batch.pairs), ..batch };
    let mut out = empty_logps(targets);
    with_slice!(rows.logits, |logits| cpu::logps(&batch, logits, host.labels(), &mut out))
        .map_err(Error::wrap)?;
    Ok((vector(out.logps)?, token_metrics(targets, out.metrics)?))
}

pub(crate) fn dpo_loss(
    rows: &Rows,
    targets: &Targets,
    inputs: &PairInputs,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let host = HostTargets::new(targets, rows.vocab, rows.stride)?;
    let inputs = host_inputs(inputs)?;
    let mut out = Forward { logps: empty_logps(targets), ..Forward::default() };
    with_slice!(rows.logits, |logits| cpu::forward_with(
        &host.batch(),
        logits,
        host.labels(),
        &inputs.as_ref().map(Vec::as_slice, Vec::as_slice, |&number| number),
        loss,
        &mut out
    ))
    .map_err(Error::wrap)?;

    let Forward { mut logps, pairs } = out;
    Ok(DpoOutput {
        pair_losses: vector(pairs.pair_losses)?,
        chosen_rewards: vector(pairs.chosen_rewards)?,
        rejected_rewards: vector(pairs.rejected_rewards)?,
        margins: vector(pairs.margins)?,
        logps: vector(logps.logps.clone())?,
        coef: vector(pairs.coef.clone())?,
        token_metrics: token_metrics(targets, logps.metrics.take())?,
        batch_metrics: BatchMetrics::Host { metrics: pairs.metrics, status: logps.status },
        loss: rows.logits.apply_op1(DpoLoss {
            targets: host,
            logps,
            coef: pairs.coef,
            loss: pairs.metrics.loss,
        })?,
    })
}

/// Where `logps` is to write.
fn empty_logps(targets: &Targets) -> Logps<f32> {
    Logps { metrics: targets.token_metrics.then(Default::default), ..Logps::default() }
}

fn token_metrics(
    targets: &Targets,
    metrics: Option<dpo_kernels::TokenMetrics<f32>>,
) -> Result<Option<TokenMetrics>> {
    let Some(metrics) = metrics else { return Ok(None) };
    let of_tokens = |values: Vec<f32>| Tensor::from_vec(values, targets.labels.shape(), &Device::Cpu);
    Ok(Some(TokenMetrics {
        entropy: of_tokens(metrics.entropy)?,
        correct: of_tokens(metrics.correct)?,
        mean_logit: of_tokens(metrics.mean_logit)?,
        sum_p2: of_tokens(metrics.sum_p2)?,
        sequence_log_weights: vector(metrics.sequence_log_weights)?,
        means: Means::Host(metrics.means),
    }))
}

/// The loss as a node of candle's graph, from logits to a scalar. The forward pass has been made: the node carries
/// its result, and what the backward pass needs of it.
struct DpoLoss {
    targets: HostTargets,
    logps: Logps<f32>,
    coef: Vec<f32>,
    loss: f32,
}

impl CustomOp1 for DpoLoss {
    fn name(&self) -> &'static str {
        "dpo-loss"
    }

    fn cpu_fwd(&self, _logits: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.to_scalar::<f32>()?;
        with_slice!(logits, |values| self.dlogits(values, logits.dims(), upstream)).map(Some)
    }
}

impl DpoLoss {
    fn dlogits<T: Logit + WithDType>(&self, logits: &[T], dims: &[usize], upstream: f32) -> Result<Tensor> {
        let batch = self.targets.batch();
        let mut dlogits = vec![T::zero(); batch.rows() * batch.row_stride];
        let logsumexp = (&self.logps).into();
        let weights = (batch.ld_alpha != 1.0).then_some(&self.logps.token_weights[..]);
        let coef = Coef { tokens: weights, ..Coef::from(&self.coef) };
        cpu::backward(&batch, logits, self.targets.labels(), logsumexp, coef, upstream, &mut dlogits)
            .map_err(Error::wrap)?;
        let (_, outer) = dims.split_last().expect("logits have a vocabulary");
        Tensor::from_vec(dlogits, [outer, &[batch.row_stride]].concat(), &Device::Cpu)?.narrow(
            outer.len(),
            0,
            batch.vocab,
        )
    }
}

/// Targets in host memory, with the shape of the logits they are for.
pub(crate) struct HostTargets {
    labels: Vec<i64>,
    indices: Vec<Vec<i32>>,
    /// An index array is its place in `indices`.
    batch: Batch<usize>,
}

impl HostTargets {
    pub(crate) fn new(targets: &Targets, vocab: usize, stride: usize) -> Result<Self> {
        let mut indices = Vec::new();
        let batch = targets.batch(vocab, stride, |array| {
            indices.push(match array.dtype() {
                DType::I32 => array.to_vec1()?,
                // As the kernels read them: beyond i32 is negative, and refused as such.
                _ => array.to_vec1::<u32>()?.into_iter().map(|index| index as i32).collect(),
            });
            Ok(indices.len() - 1)
        })?;
        let labels = targets.labels.flatten_all()?.to_dtype(DType::I64)?.to_vec1()?;
        Ok(HostTargets { labels, indices, batch })
    }

    pub(crate) fn labels(&self) -> Labels<'_> {
        self.labels[..].into()
    }

    pub(crate) fn batch(&self) -> HostBatch<'_> {
        self.batch.try_map_indices(|place| Ok(&self.indices[place][..])).expect("every place has an array")
    }
}

/// [`PairInputs`] in host memory.
fn host_inputs(inputs: &PairInputs) -> Result<PairTensors<Vec<f32>, Vec<u32>, f32>> {
    inputs.as_ref().try_map(|_, t| t.to_vec1(), |_, t| t.to_vec1(), |_, t| t.to_scalar())
}

fn vector(values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Tensor::from_vec(values, len, &Device::Cpu)
}
