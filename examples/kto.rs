//! KTO: answers that are good or bad by themselves, without pairs.
//!
//! The baseline z₀ is estimated from mismatched completions: answers put to another example's prompt.
//!
//! `cargo run --release --no-default-features --example kto`

use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, Pairs, Result, cpu};

fn main() -> Result<()> {
    // Three answers of two tokens, over a vocabulary of five; the second is undesirable.
    let desirable = [1, 0, 1];
    let batch = HostBatch::padded(3, 2, 5, LabelAlignment::Aligned);
    let batch = HostBatch { pairs: Pairs::Unpaired { desirable: &desirable }, ..batch };
    let labels = [1i64, 2, 3, 4, 0, -100];
    let logits: Vec<f32> = (0..3 * 2 * 5).map(|i| (i * 7 % 11) as f32 * 0.2).collect();

    let inputs = PairInputs {
        // `cpu::logps` of the mismatched completions, under the policy and under the reference.
        kl_logps: Some(&[-7.5, -6.0, -8.0]),
        kl_ref_logps: Some(&[-7.9, -6.3, -8.1]),
        ..PairInputs::reference(&[-3.0, -3.5, -1.5])
    };
    // There are twice as many desirable answers, so the undesirable one weighs twice as much.
    let loss = PairLoss::kto(0.1)?.with_kto_weights(1.0, 2.0)?;

    let mut out = Forward::default();
    cpu::forward(&batch, &logits, labels[..].into(), &inputs, &loss, &mut out)?;
    out.logps.status.check()?;
    let metrics = &out.pairs.metrics;
    println!(
        "loss {:.4} over {} desirable and {} undesirable",
        metrics.loss, metrics.chosen, metrics.rejected
    );

    let mut dlogits = vec![0.0; logits.len()];
    cpu::backward(&batch, &logits, labels[..].into(), &out, &mut dlogits)?.check()?;
    // Down the gradient, desirable tokens become more probable and undesirable ones less.
    assert!(dlogits[1] < 0.0 && dlogits[2 * 5 + 3] > 0.0 && dlogits[4 * 5] < 0.0);
    assert_eq!((metrics.chosen, metrics.rejected), (2, 1));
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example runs");
}
