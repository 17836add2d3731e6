//! DPO on a GPU over packed sequences, with other cu_seqlens in every micro-batch: one pass for all of them.
//!
//! The policy is a table of logits by the token before, which is what a model would be here. Micro-batches
//! are parts of one buffer of labels and one of reference log-probs; the loss is divided by the pairs of the
//! whole step, so that the losses and the gradients of micro-batches add up; and the gradient of the logits
//! takes their place.
//!
//! `cargo run --release --example cuda_packed`

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use dpo_kernels::cuda::{self, Capacity, DpoPass, Kernels, PairSlices};
use dpo_kernels::{HostBatch, LabelAlignment, PairLoss};

const VOCAB: usize = 64;
/// Rows of the longest answer, its prompt included.
const LONGEST: usize = 12;
/// Pairs of each micro-batch of a step.
const PAIRS: [usize; 4] = [8, 5, 8, 3];
const STEPS: usize = 20;
const LEARNING_RATE: f32 = 20.0;

/// Packed sequences, the chosen first, and where they are among those of the step.
struct MicroBatch {
    tokens: Vec<i64>,
    cu_seqlens: Vec<i32>,
    rows: Range<usize>,
    sequences: Range<usize>,
}

impl MicroBatch {
    fn batch(&self) -> HostBatch<'_> {
        // The row of a token predicts the next one, so that tokens are labels as they are.
        HostBatch::packed(&self.cu_seqlens, self.rows.len(), VOCAB, LabelAlignment::NextToken)
    }
}

/// Chosen answers count up from their prompt, a token; rejected ones are noise. Lengths vary.
fn micro_batches() -> Vec<MicroBatch> {
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut rows, mut sequences) = (0, 0);
    let mut micro_batch = |pairs: usize| {
        let (mut tokens, mut cu_seqlens) = (Vec::new(), vec![0]);
        for sequence in 0..2 * pairs {
            let prompt = below(VOCAB);
            tokens.push(prompt as i64);
            for t in 1..2 + below(LONGEST - 1) {
                let token = if sequence < pairs { (prompt + t) % VOCAB } else { below(VOCAB) };
                tokens.push(token as i64);
            }
            cu_seqlens.push(tokens.len() as i32);
        }
        let (first_row, first_sequence) = (rows, sequences);
        rows += tokens.len();
        sequences += 2 * pairs;
        MicroBatch { tokens, cu_seqlens, rows: first_row..rows, sequences: first_sequence..sequences }
    };
    PAIRS.map(&mut micro_batch).into()
}

/// The logits of the token that follows, by token.
struct Policy {
    table: Vec<f32>,
}

impl Policy {
    fn logits(&self, tokens: &[i64]) -> Vec<f32> {
        tokens.iter().flat_map(|&token| &self.table[token as usize * VOCAB..][..VOCAB]).copied().collect()
    }

    /// Adds the gradient of the rows' logits to the table's.
    fn backward(tokens: &[i64], dlogits: &[f32], gradient: &mut [f32]) {
        for (&token, dlogits) in tokens.iter().zip(dlogits.chunks_exact(VOCAB)) {
            let row = &mut gradient[token as usize * VOCAB..][..VOCAB];
            row.iter_mut().zip(dlogits).for_each(|(sum, dlogit)| *sum += dlogit);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = cuda::context(0)?; // an error without a GPU and its driver
    let stream = context.default_stream();
    let kernels = Arc::new(Kernels::new(&context)?);

    let micro_batches = micro_batches();
    let most = PAIRS.into_iter().max().unwrap_or(1);
    let capacity = Capacity { sequences: 2 * most, rows: 2 * most * LONGEST, pairs: most, vocab: VOCAB };
    let mut pass = DpoPass::with_capacity(&kernels, &stream, capacity, &micro_batches[0].batch())?;
    let mut logits = stream.alloc_zeros::<f32>(capacity.rows * VOCAB)?;
    let labels: Vec<i64> = micro_batches.iter().flat_map(|micro| &micro.tokens).copied().collect();
    let labels = stream.clone_htod(&labels)?;

    // The reference is the policy before its first step.
    let mut policy = Policy { table: vec![0.0; VOCAB * VOCAB] };
    let mut ref_logps = stream.alloc_zeros::<f32>(2 * PAIRS.iter().sum::<usize>())?;
    for micro in &micro_batches {
        pass.bind(&micro.batch())?;
        let mut logits = logits.slice_mut(..micro.rows.len() * VOCAB);
        stream.memcpy_htod(&policy.logits(&micro.tokens), &mut logits)?;
        pass.logps(&logits, labels.slice(micro.rows.clone()))?;
        pass.read_status()?.check()?;
        stream.memcpy_dtod(&pass.device_logps(), &mut ref_logps.slice_mut(micro.sequences.clone()))?;
    }

    // Of all pairs of the step, whichever micro-batch they are in.
    let loss = PairLoss::sigmoid(0.1)?.with_normalizer(PAIRS.iter().sum::<usize>() as f64)?;
    for step in 0..STEPS {
        let (mut gradient, mut step_loss) = (vec![0.0; policy.table.len()], 0.0);
        for micro in &micro_batches {
            pass.bind(&micro.batch())?;
            let mut logits = logits.slice_mut(..micro.rows.len() * VOCAB);
            stream.memcpy_htod(&policy.logits(&micro.tokens), &mut logits)?;
            let labels = labels.slice(micro.rows.clone());
            let inputs = PairSlices::reference(ref_logps.slice(micro.sequences.clone()));
            pass.forward(&logits, &labels, &inputs, &loss)?;
            pass.backward_in_place(&mut logits, &labels, None, 1.0)?;

            let metrics = pass.read_metrics()?;
            metrics.status.check()?;
            step_loss += metrics.pairs.loss;
            Policy::backward(&micro.tokens, &stream.clone_dtoh(&logits)?, &mut gradient);
        }
        pass.take_gradient_status()?.check()?;
        policy.table.iter_mut().zip(&gradient).for_each(|(logit, slope)| *logit -= LEARNING_RATE * slope);
        println!("step {step:>2}  loss {step_loss:.4}");
    }
    Ok(())
}
