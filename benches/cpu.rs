//! The CPU backend on one thread and on two, beside the memory bounds of the same machine in the same run. The bounds are
//! loops that read S, the bytes of the logits, as `forward` must, and that read S and write S past the caches, as
//! `backward` must.
//!
//! The goal, on two threads, is that forward and backward together take at most 1.5 times as long as the bounds for f32,
//! and 2.0 times for bf16. Shapes that grow by rows and by vocabulary follow: time is linear in both, so that their
//! throughput should stay where it is.

mod common;
#[path = "common/summary.rs"]
mod summary;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use dpo_kernels::{Forward, Labels, Logit, PairInputs, PairLoss, cpu};
use half::bf16;
use rayon::ThreadPool;
use rayon::prelude::*;

use common::{Shape, labels, logits};
use summary::{criterion, summarize};

const SHAPES: [Shape; 2] = [Shape { rows: 1024, vocab: 32_000 }, Shape { rows: 256, vocab: 128_256 }];

const THREADS: [usize; 2] = [1, 2];

/// Twice the rows, twice again; twice the vocabulary, twice again.
const GROWING: [Shape; 5] = [
    Shape { rows: 256, vocab: 32_000 },
    Shape { rows: 512, vocab: 32_000 },
    Shape { rows: 1024, vocab: 32_000 },
    Shape { rows: 256, vocab: 64_000 },
    Shape { rows: 256, vocab: 128_000 },
];

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Cache lines of a page. The processor's own prefetcher stops at the end of a page. Memory is up to 1.4 times as fast
/// where every line is asked for a page ahead, so that a loop which does not ask is no bound.
const PAGE: usize = 64;

/// Cache lines of one task of a thread.
const TASK: usize = 1 << 11;

fn bench<T: Logit>(criterion: &mut Criterion, shape: Shape) {
    let mut logits = logits::<T>(shape.rows * shape.vocab);
    let mut dlogits = vec![T::from_f32(0.5); logits.len()];
    for threads in THREADS {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut group = criterion.benchmark_group(format!("{}, {threads} threads", shape.name::<T>()));
        passes(&mut group, &pool, shape, &mut logits, &mut dlogits);
        group.finish();
    }
}

/// Forward and backward in place on all threads. The bounds are measured for each shape, because a small one may still be
/// in the caches.
fn growth<T: Logit>(criterion: &mut Criterion, shape: Shape) {
    let (batch, loss) = (shape.batch(), PairLoss::sigmoid(0.1f32).expect("a valid beta").without_reference());
    let mut logits = logits::<T>(shape.rows * shape.vocab);
    let mut place = logits.clone();
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let host_labels = labels(shape, false);
    let labels = Labels::from(&host_labels[..]);
    let mut out = Forward::default();
    let mut group = criterion.benchmark_group(format!("growth: {}", shape.name::<T>()));
    bounds(&mut group, &pool, shape, &logits, &mut place);
    let inputs = PairInputs::default();
    let mut forward = || cpu::forward(&batch, &logits, labels, &inputs, &loss, &mut out).expect("valid");
    group.throughput(Throughput::Bytes(shape.bytes::<T>()));
    group.bench_function("forward", |bencher| bencher.iter(|| pool.install(&mut forward)));
    // A gradient is a valid input again.
    let mut in_place = || cpu::backward_in_place(&batch, &mut logits, labels, &out).expect("valid");
    group.throughput(Throughput::Bytes(2 * shape.bytes::<T>()));
    group.bench_function("backward in place", |bencher| bencher.iter(|| pool.install(&mut in_place)));
    group.finish();
}

/// Reading S, and reading it and writing as much.
fn bounds<T: Logit>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    pool: &ThreadPool,
    shape: Shape,
    logits: &[T],
    dlogits: &mut [T],
) {
    group.throughput(Throughput::Bytes(shape.bytes::<T>()));
    group.bench_function("bound: read", |bencher| {
        bencher.iter(|| pool.install(|| black_box(sum(lines(logits)))))
    });
    group.throughput(Throughput::Bytes(2 * shape.bytes::<T>()));
    group.bench_function("bound: read and write", |bencher| {
        bencher.iter(|| pool.install(|| copy(lines(logits), lines_mut(dlogits))))
    });
}

/// Throughput counts the bytes that must move, as if all rows were scored.
fn passes<T: Logit>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    pool: &ThreadPool,
    shape: Shape,
    logits: &mut [T],
    dlogits: &mut [T],
) {
    let batch = shape.batch();
    let loss = PairLoss::sigmoid(0.1f32).expect("a valid beta").without_reference();
    let (read, read_and_write) =
        (Throughput::Bytes(shape.bytes::<T>()), Throughput::Bytes(2 * shape.bytes::<T>()));

    bounds(group, pool, shape, logits, dlogits);

    for ignored in [false, true] {
        let host_labels = labels(shape, ignored);
        let labels = Labels::from(&host_labels[..]);
        let suffix = if ignored { ", half ignored" } else { "" };
        let (mut out, mut factored_out) = (Forward::default(), Forward::default());
        let inputs = PairInputs::default();
        let mut forward = || cpu::forward(&batch, logits, labels, &inputs, &loss, &mut out).expect("valid");
        group.throughput(read.clone());
        group.bench_function(format!("forward{suffix}"), |bencher| {
            bencher.iter(|| pool.install(&mut forward))
        });
        let mut backward = || cpu::backward(&batch, logits, labels, &out, dlogits).expect("valid");
        group.throughput(read_and_write.clone());
        group.bench_function(format!("backward{suffix}"), |bencher| {
            bencher.iter(|| pool.install(&mut backward))
        });
        // In the other buffer, so that the logits stay what they are. A gradient is a valid input again.
        let mut in_place = || cpu::backward_in_place(&batch, dlogits, labels, &out).expect("valid");
        group.bench_function(format!("backward in place{suffix}"), |bencher| {
            bencher.iter(|| pool.install(&mut in_place))
        });
        let mut factored = || {
            let out = &mut factored_out;
            cpu::factored(&batch, logits, labels, &inputs, &loss, out, dlogits).expect("valid")
        };
        group.bench_function(format!("factored{suffix}"), |bencher| {
            bencher.iter(|| pool.install(&mut factored))
        });
    }
}

fn lines<T: Logit>(logits: &[T]) -> &[Line] {
    // SAFETY: logits are plain numbers, and any bits are a Line. What lies off its boundaries is left out.
    unsafe { logits.align_to().1 }
}

fn lines_mut<T: Logit>(logits: &mut [T]) -> &mut [Line] {
    // SAFETY: logits are plain numbers, any bits are one of them, and any bits are a Line. What lies off its boundaries is
    // left out.
    unsafe { logits.align_to_mut().1 }
}

/// Asks for the line a page ahead.
fn prefetch(line: &Line) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and it does not matter whether the address is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).wrapping_add(PAGE).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Reads every line.
fn sum(lines: &[Line]) -> u64 {
    let of_chunk = |chunk: &[Line]| {
        let add = |mut sums: [u64; 8], line: &Line| {
            prefetch(line);
            for (sum, word) in sums.iter_mut().zip(line.0) {
                *sum = sum.wrapping_add(word);
            }
            sums
        };
        chunk.iter().fold([0; 8], add).into_iter().fold(0, u64::wrapping_add)
    };
    lines.par_chunks(TASK).map(of_chunk).reduce(|| 0, u64::wrapping_add)
}

/// Reads every line and writes it elsewhere, past the caches where there is an instruction for that.
fn copy(from: &[Line], to: &mut [Line]) {
    from.par_chunks(TASK).zip(to.par_chunks_mut(TASK)).for_each(|(from, to)| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m128i, _mm_load_si128, _mm_sfence, _mm_stream_si128};
            for (from, to) in from.iter().zip(to) {
                prefetch(from);
                let (from, to) = (std::ptr::from_ref(from), std::ptr::from_mut(to));
                for quarter in 0..4 {
                    // SAFETY: SSE2 is part of x86-64; a Line is four aligned vectors.
                    unsafe {
                        let vector = _mm_load_si128(from.cast::<__m128i>().add(quarter));
                        _mm_stream_si128(to.cast::<__m128i>().add(quarter), vector);
                    }
                }
            }
            // SAFETY: SSE is part of x86-64.
            unsafe { _mm_sfence() }
        }
        #[cfg(not(target_arch = "x86_64"))]
        to.copy_from_slice(from);
    });
}

fn main() {
    let mut criterion = criterion();
    for shape in SHAPES {
        bench::<f32>(&mut criterion, shape);
        bench::<bf16>(&mut criterion, shape);
    }
    for shape in GROWING {
        growth::<bf16>(&mut criterion, shape);
    }
    criterion.final_summary();
    summarize("cpu");
}
