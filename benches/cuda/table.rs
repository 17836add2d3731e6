//! What was measured, to read and to keep.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Result;
use crate::head::HeadTime;
use crate::host::HostTime;

/// One pass over one shape.
pub struct Measured {
    pub shape: String,
    pub pass: &'static str,
    pub micros: f64,
    /// What must move.
    pub bytes: f64,
    /// Of the copy's bandwidth.
    pub share: f64,
}

impl Measured {
    /// Bytes a microsecond.
    pub fn rate(&self) -> f64 {
        self.bytes / self.micros
    }
}

pub struct Report {
    device: String,
    shapes: Vec<Vec<Measured>>,
    left_out: Vec<String>,
    pub heads: Vec<HeadTime>,
    pub host: Vec<HostTime>,
}

impl Report {
    pub fn new(device: String) -> Self {
        Report { device, shapes: vec![], left_out: vec![], heads: vec![], host: vec![] }
    }

    /// The passes over a shape, which are the same for all.
    pub fn add(&mut self, passes: Vec<Measured>) {
        self.shapes.push(passes);
    }

    /// A shape that there was no time for.
    pub fn leave_out(&mut self, shape: String) {
        self.left_out.push(shape);
    }

    /// A row for each shape, a column for each pass.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}, microseconds of device time and, in brackets, the share of the copy's bandwidth in the same run, for the \
             bytes that the pass must move:\n\n",
            self.device
        );
        if let Some(first) = self.shapes.first() {
            let passes: Vec<_> = first.iter().map(|measured| measured.pass).collect();
            let _ = writeln!(text, "| rows × vocabulary | {} | copy GB/s |", passes.join(" | "));
            let _ = writeln!(text, "|---|{}", "---:|".repeat(passes.len() + 1));
        }
        for shape in &self.shapes {
            let _ = write!(text, "| {} |", shape[0].shape);
            for Measured { micros, share, .. } in shape {
                let _ = write!(text, " {} ({share:.2}) |", significant(*micros));
            }
            let _ = writeln!(text, " {:.0} |", shape[0].rate() / 1e3);
        }
        if !self.heads.is_empty() {
            let _ =
                writeln!(text, "\n| the head | ms | its products alone, ms | ratio |\n|---|---:|---:|---:|");
        }
        for HeadTime { name, micros, products } in &self.heads {
            let (ms, alone) = (significant(micros / 1e3), significant(products / 1e3));
            let _ = writeln!(text, "| {name} | {ms} | {alone} | {:.3} |", micros / products);
        }
        let host = self.host.iter().map(|time| format!("{} {:.2}", time.what, time.micros));
        let _ = writeln!(text, "\nHost microseconds of a launch: {}.", host.collect::<Vec<_>>().join(", "));
        for shape in &self.left_out {
            let _ = writeln!(text, "Not measured, no time left: {shape}.");
        }
        text
    }

    /// Writes cuda.md and cuda.json where `DPO_BENCH_OUT` says.
    pub fn write(&self) -> Result<()> {
        let Some(out) = std::env::var_os("DPO_BENCH_OUT") else { return Ok(()) };
        let passes: Vec<_> = self
            .shapes
            .iter()
            .flatten()
            .map(|m| json!({"shape": m.shape, "pass": m.pass, "us": m.micros, "bytes": m.bytes, "share_of_copy": m.share}))
            .collect();
        let host: Vec<_> =
            self.host.iter().map(|time| json!({"what": time.what, "us": time.micros})).collect();
        let heads: Vec<_> = self
            .heads
            .iter()
            .map(|m| json!({"head": m.name, "us": m.micros, "products_us": m.products}))
            .collect();
        let figures = json!({
            "device": self.device, "passes": passes, "heads": heads, "host": host, "not_measured": self.left_out
        });
        fs::write(Path::new(&out).join("cuda.md"), self.markdown())?;
        fs::write(Path::new(&out).join("cuda.json"), serde_json::to_string_pretty(&figures)?)?;
        Ok(())
    }
}

/// Three digits of a number above 1.
fn significant(number: f64) -> String {
    let decimals = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.decimals$}")
}
