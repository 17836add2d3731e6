//! The language model's head on the CPU, beside the products that it is made of, alone: the same matrices in f32, each product
//! in one call of the `gemm` crate, in the same run. The goal is at most 1.15 times the products.
//!
//! `cargo bench -p dpo-kernels --no-default-features --bench lm_head`

mod common;
#[allow(dead_code)] // the other one writes summaries
#[path = "common/summary.rs"]
mod summary;

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use dpo_kernels::cpu::lm_head::{self, LmHeadWorkspace};
use dpo_kernels::{Forward, LmHead, LmHeadGradients, Logit, Logps, PairInputs, PairLoss};
use gemm::Parallelism;
use half::bf16;

use common::{Shape, labels, logits};
use summary::criterion;

const SHAPE: Shape = Shape { rows: 1024, vocab: 32_000 };
const HIDDEN: usize = 512;

/// out = a · b for row-major `[m, k]` and `[k, n]`, given the strides (row, column) of both.
fn product(out: &mut [f32], [m, n, k]: [usize; 3], a: (&[f32], [isize; 2]), b: (&[f32], [isize; 2])) {
    assert!(out.len() == m * n && a.0.len() == m * k && b.0.len() == k * n);
    // SAFETY: the strides are those of the matrices, or of their transposes, which have these numbers of elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.0.as_ptr(),
            a.1[1],
            a.1[0],
            b.0.as_ptr(),
            b.1[1],
            b.1[0],
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
    }
}

/// The three products, of which `count` are asked for: z = X Wᵀ, G W and Gᵀ X.
fn products(group: &mut BenchmarkGroup<'_, WallTime>, count: usize) {
    let Shape { rows, vocab } = SHAPE;
    let (x, w) = (logits::<f32>(rows * HIDDEN), logits::<f32>(vocab * HIDDEN));
    let mut z = vec![0.0; rows * vocab];
    let (mut dx, mut dw) = (vec![0.0; rows * HIDDEN], vec![0.0; vocab * HIDDEN]);
    let (h, v) = (HIDDEN as isize, vocab as isize);
    group.bench_function(format!("bound: {count} products"), |bencher| {
        bencher.iter(|| {
            product(&mut z, [rows, vocab, HIDDEN], (&x, [h, 1]), (&w, [1, h]));
            if count > 1 {
                product(&mut dx, [rows, HIDDEN, vocab], (&z, [v, 1]), (&w, [h, 1]));
            }
            if count > 2 {
                product(&mut dw, [vocab, HIDDEN, rows], (&z, [1, v]), (&x, [h, 1]));
            }
            black_box((&z, &dx, &dw));
        });
    });
}

fn head<T: Logit>(group: &mut BenchmarkGroup<'_, WallTime>, what: &str, count: usize, ignored: bool) {
    let Shape { rows, vocab } = SHAPE;
    let (batch, labels) = (SHAPE.batch(), labels(SHAPE, ignored));
    // Numbers below 1, so that the logits are those of a model.
    let scaled = |count: usize, by: f32| -> Vec<T> {
        logits::<f32>(count).into_iter().map(|value| T::from_f32(value * by)).collect()
    };
    let (x, w) = (scaled(rows * HIDDEN, 0.05), scaled(vocab * HIDDEN, 0.05));
    let head = LmHead { hidden_size: HIDDEN, hidden: &x, weight: &w, bias: None };
    let ref_logps = vec![-300.0; rows / 32];
    let (inputs, loss) = (PairInputs::reference(&ref_logps), PairLoss::sigmoid(0.1).unwrap());
    let mut dhidden = vec![T::from_f32(0.0); x.len()];
    let mut dweight = vec![0.0; w.len()];
    let (mut out, mut logps) = (Forward::default(), Logps::default());
    let mut workspace = LmHeadWorkspace::default();
    group.bench_function(format!("{} {what}", T::DTYPE.name()), |bencher| {
        bencher.iter(|| {
            let labels = labels[..].into();
            if count == 1 {
                return lm_head::logps(&batch, &head, labels, &mut logps, &mut workspace).unwrap();
            }
            let mut gradients = LmHeadGradients {
                hidden: Some(&mut dhidden),
                weight: (count == 3).then_some(&mut dweight[..]),
                ..LmHeadGradients::default()
            };
            lm_head::forward(&batch, &head, labels, &inputs, &loss, &mut out, &mut gradients, &mut workspace)
                .unwrap();
        });
    });
}

fn main() {
    let mut criterion: Criterion = criterion();
    for (count, name) in [(1, "logps"), (2, "loss and dX"), (3, "loss, dX and dW")] {
        let Shape { rows, vocab } = SHAPE;
        let mut group = criterion.benchmark_group(format!("{rows}x{HIDDEN}x{vocab}, {name}"));
        group.sample_size(10);
        products(&mut group, count);
        head::<f32>(&mut group, "all scored", count, false);
        head::<bf16>(&mut group, "all scored", count, false);
        head::<f32>(&mut group, "half ignored", count, true);
        group.finish();
    }
    criterion.final_summary();
}
