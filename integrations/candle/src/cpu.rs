//! The operation on CPU storage.

use candle_core::{
    CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, WithDType,
};
use dpo_kernels::batch::Logps;
use dpo_kernels::cpu::{self, Forward};
use dpo_kernels::{Batch, HostBatch, Labels, Logit, PairLoss, Pairs};

use crate::output::{DpoOutput, Figures};
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

pub(crate) fn sequence_logps(rows: &Rows, targets: &Targets) -> Result<Tensor> {
    let targets = HostTargets::new(rows, targets)?;
    let batch = HostBatch { pairs: Pairs::None, ..targets.batch() };
    let mut out = Logps::default();
    with_slice!(rows.logits, |logits| cpu::logps(&batch, logits, targets.labels(), &mut out))
        .map_err(Error::wrap)?;
    vector(out.logps)
}

pub(crate) fn dpo_loss(
    rows: &Rows,
    targets: &Targets,
    ref_logps: Option<&Tensor>,
    loss: &PairLoss,
) -> Result<DpoOutput> {
    let targets = HostTargets::new(rows, targets)?;
    let ref_logps = ref_logps.map(|ref_logps| ref_logps.to_vec1::<f32>()).transpose()?;
    let mut out = Forward::default();
    with_slice!(rows.logits, |logits| cpu::forward(
        &targets.batch(),
        logits,
        targets.labels(),
        ref_logps.as_deref(),
        loss,
        &mut out
    ))
    .map_err(Error::wrap)?;

    let Forward { logps, pairs } = out;
    Ok(DpoOutput {
        pair_losses: vector(pairs.pair_losses)?,
        chosen_rewards: vector(pairs.chosen_rewards)?,
        rejected_rewards: vector(pairs.rejected_rewards)?,
        margins: vector(pairs.margins)?,
        logps: vector(logps.logps.clone())?,
        coef: vector(pairs.coef.clone())?,
        figures: Figures::Host { metrics: pairs.metrics, status: logps.status },
        loss: rows.logits.apply_op1(DpoLoss {
            targets,
            logps,
            coef: pairs.coef,
            loss: pairs.metrics.loss,
        })?,
    })
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
        cpu::backward(&batch, logits, self.targets.labels(), logsumexp, &self.coef, upstream, &mut dlogits)
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
struct HostTargets {
    labels: Vec<i64>,
    indices: Vec<Vec<i32>>,
    /// An index array is its place in `indices`.
    batch: Batch<usize>,
}

impl HostTargets {
    fn new(rows: &Rows, targets: &Targets) -> Result<Self> {
        let mut indices = Vec::new();
        let batch = targets.batch(rows, |array| {
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

    fn labels(&self) -> Labels<'_> {
        self.labels[..].into()
    }

    fn batch(&self) -> HostBatch<'_> {
        self.batch.try_map_indices(|place| Ok(&self.indices[place][..])).expect("every place has an array")
    }
}

fn vector(values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Tensor::from_vec(values, len, &Device::Cpu)
}
