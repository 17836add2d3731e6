//! The kernels on the first GPU, timed by CUDA events: bytes of logits per second, beside a device-to-device copy of as
//! many bytes in the same run. `forward` must read S, the bytes of the logits; `backward` and `factored` must read S and
//! write S, as the copy does.
//!
//! `DPO_BENCH_OUT=folder cargo bench --bench cuda` prints the roofline table, whose last column is the share of the copy's
//! bandwidth.
//!
//! Without a device the benchmark says so and passes, unless DPO_REQUIRE_GPU is set.

#[cfg(feature = "cuda")]
mod common;

#[cfg(feature = "cuda")]
mod device {
    use std::sync::Arc;
    use std::time::Duration;

    use criterion::{Criterion, Throughput};
    use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
    use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
    use dpo_kernels::cuda::{self, DpoPass, Kernels, PairSlices};
    use dpo_kernels::{Logit, PairLoss};
    use half::{bf16, f16};

    use crate::common::{Shape, criterion, labels, logits, summarize};

    /// The large one, few long rows, and small and middling sizes.
    fn shapes() -> impl Iterator<Item = Shape> {
        let long = [8192, 64].map(|rows| Shape { rows, vocab: 128_256 });
        let middling = [4096, 32_000, 50_257]
            .into_iter()
            .flat_map(|vocab| [64, 256, 1024, 4096].map(|rows| Shape { rows, vocab }));
        long.into_iter().chain(middling)
    }

    pub fn main() {
        let context = match cuda::context(0) {
            Ok(context) => context,
            Err(error) if std::env::var_os("DPO_REQUIRE_GPU").is_some() => panic!("{error}"),
            Err(error) => return println!("cuda benchmarks skipped: {error}"),
        };
        let mut criterion = criterion();
        for shape in shapes() {
            bench::<bf16>(&mut criterion, &context, shape);
            bench::<f16>(&mut criterion, &context, shape);
            bench::<f32>(&mut criterion, &context, shape);
        }
        criterion.final_summary();
        summarize("cuda");
    }

    /// Device time of `iterations` calls.
    fn timed(stream: &Arc<CudaStream>, iterations: u64, mut call: impl FnMut()) -> Duration {
        let record = || stream.record_event(Some(CU_EVENT_DEFAULT)).expect("an event");
        let start = record();
        (0..iterations).for_each(|_| call());
        let end = record();
        Duration::from_secs_f64(f64::from(start.elapsed_ms(&end).expect("recorded events")) / 1e3)
    }

    /// Fills a device buffer with 64 rows over and over.
    fn upload<T: Logit + DeviceRepr + ValidAsZeroBits>(
        stream: &Arc<CudaStream>,
        shape: Shape,
    ) -> CudaSlice<T> {
        let tile = logits::<T>(64 * shape.vocab);
        let mut all = stream.alloc_zeros::<T>(shape.rows * shape.vocab).expect("device memory");
        for start in (0..shape.rows).step_by(64) {
            let mut part = all.slice_mut(start * shape.vocab..(start + 64) * shape.vocab);
            stream.memcpy_htod(&tile, &mut part).expect("a copy");
        }
        all
    }

    fn bench<T>(criterion: &mut Criterion, context: &Arc<CudaContext>, shape: Shape)
    where
        T: Logit + DeviceRepr + ValidAsZeroBits,
    {
        let stream = context.default_stream();
        let kernels = Arc::new(Kernels::new(context).expect("kernels for this device"));
        let mut pass = DpoPass::new(&kernels, &stream, &shape.batch()).expect("device memory");
        let loss = PairLoss::sigmoid(0.1f32).expect("a valid beta").without_reference();
        let mut logits = upload::<T>(&stream, shape);
        let mut dlogits = stream.alloc_zeros::<T>(shape.rows * shape.vocab).expect("device memory");
        let host_labels = labels(shape, false);
        let labels = &stream.clone_htod(&host_labels).expect("a copy");
        let inputs = PairSlices::default();
        let mut group = criterion.benchmark_group(shape.name::<T>());
        // Bytes that have to move: the copy reads S and writes S.
        group.throughput(Throughput::Bytes(2 * shape.bytes::<T>()));
        group.bench_function("bound: copy", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || stream.memcpy_dtod(&logits, &mut dlogits).expect("a copy"))
            })
        });
        group.throughput(Throughput::Bytes(shape.bytes::<T>()));
        group.bench_function("forward", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || pass.forward(&logits, labels, &inputs, &loss).expect("a launch"))
            })
        });
        group.throughput(Throughput::Bytes(2 * shape.bytes::<T>()));
        group.bench_function("backward", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || {
                    pass.backward(&logits, labels, None, 1.0, &mut dlogits).expect("a launch")
                })
            })
        });
        group.bench_function("backward in place", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || {
                    pass.backward_in_place(&mut logits, labels, None, 1.0).expect("a launch")
                })
            })
        });
        // A gradient is a valid input again.
        group.bench_function("factored", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || {
                    pass.factored(&logits, labels, &inputs, &loss, &mut dlogits).expect("a launch")
                })
            })
        });
        group.bench_function("factored in place", |bencher| {
            bencher.iter_custom(|n| {
                timed(&stream, n, || {
                    pass.factored_in_place(&mut logits, labels, &inputs, &loss).expect("a launch")
                })
            })
        });
        group.finish();
    }
}

fn main() {
    #[cfg(feature = "cuda")]
    device::main();
    #[cfg(not(feature = "cuda"))]
    println!("cuda benchmarks skipped: built without the feature cuda");
}
