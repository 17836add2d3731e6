//! The CPU backend on all threads: bytes of logits per second, beside the memory floor of the same machine in the same
//! run. A forward must read S; a backward must read S and write S.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use dpo_kernels::cpu::{self, Forward};
use dpo_kernels::{Logit, PairLoss};
use half::bf16;
use rayon::prelude::*;

use common::{Shape, criterion, labels, logits, summarize};

const SHAPES: [Shape; 2] = [Shape { rows: 1024, vocab: 32_000 }, Shape { rows: 256, vocab: 128_256 }];

fn bench<T: Logit>(criterion: &mut Criterion, shape: Shape) {
    let batch = shape.batch();
    let mut logits = logits::<T>(shape.rows * shape.vocab);
    let loss = PairLoss::sigmoid(0.1f32).expect("a valid beta");
    let mut group = criterion.benchmark_group(shape.name::<T>());
    group.throughput(Throughput::Bytes(shape.bytes::<T>()));
    group.bench_function("floor: read", |bencher| bencher.iter(|| black_box(checksum(&logits))));
    for ignored in [false, true] {
        let labels = labels(shape, ignored);
        let suffix = if ignored { ", half ignored" } else { "" };
        let mut out = Forward::default();
        group.bench_function(format!("forward{suffix}"), |bencher| {
            bencher.iter(|| {
                cpu::forward(&batch, &logits, labels[..].into(), None, &loss, &mut out).expect("valid")
            })
        });
        let coef = out.pairs.coef.clone();
        let mut dlogits = vec![T::from_f32(0.0); logits.len()];
        group.bench_function(format!("backward{suffix}"), |bencher| {
            bencher.iter(|| {
                let logsumexp = (&out.logps).into();
                cpu::backward(&batch, &logits, labels[..].into(), logsumexp, &coef, 1.0, &mut dlogits)
                    .expect("valid")
            })
        });
        // The gradient is a valid input again, so the buffer may be used over and over.
        group.bench_function(format!("backward in place{suffix}"), |bencher| {
            bencher.iter(|| {
                let logsumexp = (&out.logps).into();
                cpu::backward_in_place(&batch, &mut logits, labels[..].into(), logsumexp, &coef, 1.0)
                    .expect("valid")
            })
        });
    }
    group.finish();
}

/// Reads every byte of the logits, on all threads.
fn checksum<T: Logit>(logits: &[T]) -> u64 {
    // SAFETY: plain numbers, of which there is a multiple of eight bytes.
    let words = unsafe { std::slice::from_raw_parts(logits.as_ptr().cast::<u64>(), size_of_val(logits) / 8) };
    words
        .par_chunks(1 << 16)
        .map(|chunk| chunk.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)))
        .sum()
}

fn main() {
    let mut criterion = criterion();
    for shape in SHAPES {
        bench::<f32>(&mut criterion, shape);
        bench::<bf16>(&mut criterion, shape);
    }
    criterion.final_summary();
    summarize("cpu");
}
