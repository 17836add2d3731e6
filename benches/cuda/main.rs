//! The kernels on the first GPU: device time of every pass, as a share of the bandwidth that the device's own copy reaches in
//! the same run, and the host's time for one launch.
//!
//! `cargo bench --bench cuda` measures the shapes that tell something within 90 seconds, and the head, from hidden states;
//! `-- --full` measures the others too, `-- 128256 bf16` those whose names have all of these words, and `-- head` the head alone. With `DPO_BENCH_OUT=folder` the table and the raw figures
//! are written there too: cuda.md, cuda.json.
//!
//! Without a device the benchmark says so and passes, unless DPO_REQUIRE_GPU is set.

mod clock;
#[path = "../common/mod.rs"]
mod common;
mod head;
mod host;
mod passes;
mod shapes;
mod table;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpo_kernels::DType;
use dpo_kernels::cuda::{self, Kernels};
use half::{bf16, f16};

use crate::clock::Clock;
use crate::passes::Gpu;
use crate::table::Report;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The default shapes end by then, with this much to spare for the one that is being measured.
const LIMIT: Duration = Duration::from_secs(90);
const SPARE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let (full, words) = arguments()?;
    let shapes: Vec<_> = shapes::shapes(full)
        .into_iter()
        .filter(|shape| words.iter().all(|w| shape.name().contains(w)))
        .collect();
    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(error) if std::env::var_os("DPO_REQUIRE_GPU").is_some() => return Err(error.into()),
        Err(error) => {
            println!("{}", host::without_a_device()?);
            println!("cuda benchmarks skipped, {} shapes: {error}", shapes.len());
            return Ok(());
        }
    };
    let limit = if full { "without a limit".into() } else { format!("at most {} s", LIMIT.as_secs()) };
    println!("{}: {} shapes, {limit}", context.name()?, shapes.len());

    let started = Instant::now();
    // SAFETY: cudarc's events order streams that share a buffer, and cannot be captured. All work is on one stream.
    unsafe { context.disable_event_tracking() };
    // The default stream cannot be captured.
    let stream = context.new_stream()?;
    let kernels = Arc::new(Kernels::new(&context)?);
    let gpu = Gpu { kernels, clock: Clock::new(&stream), stream };
    let mut report = Report::new(context.name()?);
    for shape in shapes {
        if !full && started.elapsed() > LIMIT - SPARE {
            report.leave_out(shape.name());
            continue;
        }
        report.add(match shape.dtype {
            DType::BF16 => passes::measure::<bf16>(&gpu, shape.size)?,
            DType::F16 => passes::measure::<f16>(&gpu, shape.size)?,
            DType::F32 => passes::measure::<f32>(&gpu, shape.size)?,
        });
        println!("{:>5.1} s  {}", started.elapsed().as_secs_f64(), shape.name());
    }
    if words.is_empty() || words.iter().any(|word| word == "head") {
        report.heads = head::measure(&gpu)?;
    }
    report.host = host::launches(&gpu)?;
    println!("\n{}", report.markdown());
    report.write()
}

/// Whether `--full` was given, and the words that names of shapes must have.
fn arguments() -> Result<(bool, Vec<String>)> {
    // Cargo says --bench to every benchmark.
    let (options, words): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).filter(|a| a != "--bench").partition(|argument| argument.starts_with('-'));
    match options.iter().find(|option| *option != "--full") {
        Some(unknown) => Err(format!("expected --full or words of a shape's name, found {unknown}").into()),
        None => Ok((!options.is_empty(), words)),
    }
}
