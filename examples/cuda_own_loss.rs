//! A loss of one's own on a GPU: log-probs from `logps`, coefficients into `coef_mut`, the gradient from
//! `backward`.
//!
//! Of K answers to a prompt, the first is the best: with r̂_k = β (logp_k − ref_logp_k), its probability
//! under a softmax over the rewards is to rise (InfoNCA with one answer that is right, Chen et al. 2024,
//! arXiv:2402.05369).
//!
//! ```text
//! loss = −log softmax(r̂)[0]        ∂loss/∂logp_k = β (softmax(r̂)[k] − 1[k = 0])
//! ```
//!
//! `cargo run --release --example cuda_own_loss`

use std::error::Error;
use std::sync::Arc;

use dpo_kernels::cuda::{self, DpoPass, Kernels};
use dpo_kernels::{HostBatch, LabelAlignment, Pairs};

const PROMPTS: usize = 2;
const ANSWERS: usize = 3;
const TOKENS: usize = 4;
const VOCAB: usize = 16;
const BETA: f64 = 0.1;

/// The mean loss over prompts, and its coefficient for each sequence.
fn best_of(logps: &[f32], ref_logps: &[f32]) -> (f64, Vec<f32>) {
    let (mut loss, mut coef) = (0.0, Vec::new());
    for (logps, ref_logps) in logps.chunks_exact(ANSWERS).zip(ref_logps.chunks_exact(ANSWERS)) {
        let rewards: Vec<f64> =
            logps.iter().zip(ref_logps).map(|(logp, of_ref)| BETA * f64::from(logp - of_ref)).collect();
        let max = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + rewards.iter().map(|reward| (reward - max).exp()).sum::<f64>().ln();
        loss += (log_sum - rewards[0]) / PROMPTS as f64;
        coef.extend(rewards.iter().enumerate().map(|(k, reward)| {
            let best = if k == 0 { 1.0 } else { 0.0 };
            (BETA * ((reward - log_sum).exp() - best) / PROMPTS as f64) as f32
        }));
    }
    (loss, coef)
}

fn main() -> Result<(), Box<dyn Error>> {
    let context = cuda::context(0)?; // an error without a GPU and its driver
    let stream = context.default_stream();
    let kernels = Arc::new(Kernels::new(&context)?);

    // The answers to a prompt follow each other; what pairs them is the loss alone.
    let sequences = PROMPTS * ANSWERS;
    let batch = HostBatch {
        pairs: Pairs::None,
        ..HostBatch::padded(sequences, TOKENS, VOCAB, LabelAlignment::Aligned)
    };
    let mut pass = DpoPass::new(&kernels, &stream, &batch)?;
    let labels: Vec<i64> = (0..batch.rows()).map(|row| (row * 7 % VOCAB) as i64).collect();
    let labels = stream.clone_htod(&labels)?;
    let mut host_logits: Vec<f32> = (0..batch.logits_len()).map(|i| (i * 13 % 29) as f32 * 0.1).collect();
    let mut logits = stream.clone_htod(&host_logits)?;

    // The reference is the policy as it starts.
    pass.logps(&logits, &labels)?;
    let ref_logps = pass.read_logps()?.logps;
    for step in 0..10 {
        pass.logps(&logits, &labels)?;
        let out = pass.read_logps()?;
        out.status.check()?;
        let (loss, coef) = best_of(&out.logps, &ref_logps);
        println!("step {step}  loss {loss:.4}");

        stream.memcpy_htod(&coef, &mut pass.coef_mut())?;
        pass.backward_in_place(&mut logits, &labels, None, 1.0)?;
        pass.take_gradient_status()?.check()?;
        // The logits stand for the parameters of a model here.
        let gradient = stream.clone_dtoh(&logits)?;
        host_logits.iter_mut().zip(&gradient).for_each(|(logit, slope)| *logit -= 50.0 * slope);
        stream.memcpy_htod(&host_logits, &mut logits)?;
    }
    Ok(())
}
