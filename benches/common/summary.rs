//! What criterion measured, as a table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use criterion::Criterion;

/// Where `DPO_BENCH_OUT` names a folder, writes what criterion measured there: `NAME.json`, and `NAME.txt` to read.
///
/// The last column is the share of the bound's bandwidth. The bound is the benchmark of the same shape whose name starts
/// with `bound` and which moves as many bytes; where there is none, any bound of the shape.
pub fn summarize(name: &str) {
    let Some(out) = std::env::var_os("DPO_BENCH_OUT") else { return };
    let home = std::env::var_os("CRITERION_HOME").unwrap_or_else(|| "target/criterion".into());
    let mut measured = Vec::new();
    collect(Path::new(&home), &mut measured);
    measured.sort_by_key(|row| (row.shape.clone(), row.what.clone()));
    let mut text =
        format!("{:<28} {:<28} {:>12} {:>10} {:>8}\n", "shape", "pass", "median us", "GB/s", "bound");
    let mut json = Vec::new();
    for row in &measured {
        let bounds =
            || measured.iter().filter(|other| other.shape == row.shape && other.what.starts_with("bound"));
        let bound = bounds().find(|bound| bound.bytes == row.bytes).or_else(|| bounds().next());
        let share = bound.map_or(f64::NAN, |bound| row.rate() / bound.rate());
        let micros = row.median_ns / 1e3;
        writeln!(text, "{:<28} {:<28} {micros:>12.1} {:>10.1} {share:>8.3}", row.shape, row.what, row.rate())
            .expect("writing to a String");
        json.push(serde_json::json!({
            "shape": row.shape, "pass": row.what, "median_ns": row.median_ns, "bytes": row.bytes,
            "gb_per_s": row.rate(), "share_of_bound": if share.is_nan() { None } else { Some(share) },
        }));
    }
    let json = serde_json::to_string_pretty(&json).expect("plain values");
    let write = |extension: &str, contents: &str| {
        let path = Path::new(&out).join(format!("{name}.{extension}"));
        fs::write(&path, contents).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    write("json", &json);
    write("txt", &text);
    print!("{text}");
}

struct Measured {
    shape: String,
    what: String,
    median_ns: f64,
    bytes: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.median_ns
    }
}

/// Criterion keeps one folder per benchmark, with the newest run in `new`.
fn collect(folder: &Path, measured: &mut Vec<Measured>) {
    let read = |name: &str| -> Option<serde_json::Value> {
        serde_json::from_str(&fs::read_to_string(folder.join("new").join(name)).ok()?).ok()
    };
    if let (Some(benchmark), Some(estimates)) = (read("benchmark.json"), read("estimates.json")) {
        measured.push(Measured {
            shape: benchmark["group_id"].as_str().unwrap_or("").into(),
            what: benchmark["function_id"].as_str().unwrap_or("").into(),
            median_ns: estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN),
            bytes: benchmark["throughput"]["Bytes"].as_u64().unwrap_or(0),
        });
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), measured);
        }
    }
}

/// Few samples are enough: a pass takes milliseconds, and medians are what counts.
pub fn criterion() -> Criterion {
    Criterion::default().sample_size(10).configure_from_args()
}
