//! DPO on the CPU, end to end: a policy that is a table of logits, and gradient descent on it.
//!
//! `cargo run --release --no-default-features --example cpu`

use dpo_kernels::{Forward, HostBatch, LabelAlignment, Logps, PairInputs, PairLoss, Result, cpu};

/// Two pairs, chosen first: four answers of three tokens, over a vocabulary of eight.
const SEQUENCES: usize = 4;
const LEN: usize = 3;
const VOCAB: usize = 8;

fn main() -> Result<()> {
    let batch = HostBatch::padded(SEQUENCES, LEN, VOCAB, LabelAlignment::Aligned);
    // The last token of the first answer is padding.
    let labels = [3i64, 1, -100, 4, 1, 5, 2, 6, 5, 3, 5, 0];

    // The policy begins as the reference.
    let mut logits: Vec<f32> = (0..SEQUENCES * LEN * VOCAB).map(|i| (i * 7 % 11) as f32 * 0.1).collect();
    let mut reference = Logps::default();
    cpu::logps(&batch, &logits, labels[..].into(), &mut reference)?;
    reference.status.check()?;

    let (inputs, loss) = (PairInputs::reference(&reference.logps), PairLoss::sigmoid(0.1)?);
    let mut out = Forward::default();
    let mut dlogits = vec![0.0; logits.len()];
    let mut losses = Vec::new();
    for step in 0..50 {
        cpu::forward(&batch, &logits, labels[..].into(), &inputs, &loss, &mut out)?;
        out.logps.status.check()?;
        let metrics = &out.pairs.metrics;
        losses.push(metrics.loss);
        if step % 10 == 0 {
            println!("step {step:2}  loss {:.4}  margin {:.4}", metrics.loss, metrics.margin);
        }

        cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?.check()?;
        for (logit, slope) in logits.iter_mut().zip(&dlogits) {
            *logit -= 5.0 * slope;
        }
    }
    // Where the policy is the reference, the loss is ln 2; then each step lowers it.
    assert_eq!(losses[0], std::f32::consts::LN_2);
    assert!(losses.is_sorted_by(|before, after| after < before));
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example runs");
}
