//! Packed sequences in micro-batches of different sizes, whose gradients add up to that of one large batch.
//!
//! The loss is divided by the scored tokens of the whole step. Labels tell how many there are before the first micro-batch
//! has been through the model.
//!
//! `cargo run --release --no-default-features --example packed_accumulation`

use dpo_kernels::{Forward, HostBatch, LabelAlignment, PairInputs, PairLoss, Pairs, Result, cpu};

const VOCAB: usize = 50;

/// Pairs of packed sequences, chosen and rejected in turn.
struct MicroBatch {
    cu_seqlens: Vec<i32>,
    labels: Vec<i64>,
    ref_logps: Vec<f32>,
}

impl MicroBatch {
    /// Answers of these lengths to prompts of two tokens, which are not scored.
    fn new(lengths: &[i32]) -> Self {
        let mut cu_seqlens = vec![0];
        let mut labels = Vec::new();
        for &len in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + 2 + len);
            labels.extend([-100, -100]);
            labels.extend((0..i64::from(len)).map(|t| (17 * t + 5 * i64::from(len)) % VOCAB as i64));
        }
        let ref_logps = lengths.iter().map(|&len| -3.9 * len as f32).collect();
        MicroBatch { cu_seqlens, labels, ref_logps }
    }

    /// Hugging Face's unshifted labels: row t predicts the token of row t + 1.
    fn batch(&self) -> HostBatch<'_> {
        let batch = HostBatch::packed(&self.cu_seqlens, self.labels.len(), VOCAB, LabelAlignment::NextToken);
        HostBatch { pairs: Pairs::Interleaved, ..batch }
    }

    /// The loss's share of this micro-batch, and its gradient.
    fn step(&self, logits: &[f32], loss: &PairLoss) -> Result<(f32, Vec<f32>)> {
        let (batch, labels) = (self.batch(), self.labels[..].into());
        let mut out = Forward::default();
        cpu::forward(&batch, logits, labels, &PairInputs::reference(&self.ref_logps), loss, &mut out)?;
        out.logps.status.check()?;
        let mut dlogits = vec![0.0; logits.len()];
        cpu::backward(&batch, logits, labels, &out, &mut dlogits)?.check()?;
        Ok((out.pairs.metrics.loss, dlogits))
    }
}

/// What a model would give for so many rows, from the row `first` of the whole step on.
fn logits(first: usize, rows: usize) -> Vec<f32> {
    (first * VOCAB..(first + rows) * VOCAB).map(|i| (i * 7 % 23) as f32 * 0.1).collect()
}

fn main() -> Result<()> {
    let micro_batches = [MicroBatch::new(&[5, 3]), MicroBatch::new(&[1, 8, 4, 4])];

    let mut tokens = 0;
    for micro in &micro_batches {
        tokens += micro.batch().pair_tokens(micro.labels[..].into(), None)?.all();
    }
    let loss = PairLoss::sigmoid(0.1)?.with_normalizer(tokens as f64)?;

    let (mut total, mut gradient, mut rows) = (0.0, Vec::new(), 0);
    for micro in &micro_batches {
        let (share, dlogits) = micro.step(&logits(rows, micro.labels.len()), &loss)?;
        println!("{} rows: loss {share:.6}", micro.labels.len());
        total += share;
        gradient.extend(dlogits);
        rows += micro.labels.len();
    }

    // The same in one batch.
    let whole = MicroBatch::new(&[5, 3, 1, 8, 4, 4]);
    let (of_whole, dlogits) =
        whole.step(&logits(0, rows), &PairLoss::sigmoid(0.1)?.with_token_normalizer())?;
    println!("{rows} rows: loss {of_whole:.6}");
    assert!((total - of_whole).abs() < 1e-6);
    assert!(gradient.iter().zip(&dlogits).all(|(a, b)| (a - b).abs() < 1e-8));
    Ok(())
}

#[test]
fn runs() {
    main().expect("the example runs");
}
