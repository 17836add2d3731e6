//! The metrics of a run, step by step.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use dpo_kernels_candle::PairMetrics;

/// What there is to plot and to keep of a run.
#[derive(Default)]
pub struct History {
    /// Warm-up: step and mean negative log-prob per token.
    pub sft: Vec<(usize, f32)>,
    /// DPO: step and metrics of its training batch, before the step was taken.
    pub train: Vec<(usize, PairMetrics<f32>)>,
    /// DPO: number of steps taken and metrics of all held-out pairs.
    pub held_out: Vec<(usize, PairMetrics<f32>)>,
}

impl History {
    /// Writes all metrics as CSV, one line per step and split.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut csv = BufWriter::new(file);
        writeln!(csv, "phase,split,step,loss,chosen_reward,rejected_reward,margin,accuracy")?;
        for (step, loss) in &self.sft {
            writeln!(csv, "sft,train,{step},{loss},,,,")?;
        }
        for (split, rows) in [("train", &self.train), ("held-out", &self.held_out)] {
            for (step, PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy, .. }) in rows {
                writeln!(
                    csv,
                    "dpo,{split},{step},{loss},{chosen_reward},{rejected_reward},{margin},{accuracy}"
                )?;
            }
        }
        csv.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}
