//! The metrics of a run: kept, and appended to a file as its steps end.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dpo_kernels_candle::PairMetrics;

use crate::dpo::Evaluation;

const HEADER: &str =
    "phase,split,step,loss,chosen_reward,rejected_reward,margin,accuracy,preference_accuracy";

/// What there is to plot and to keep of a run, in the order in which it came.
pub struct History {
    rows: Vec<Row>,
    csv: File,
}

/// A line of the metrics.
#[derive(Debug, Clone, Copy)]
pub enum Row {
    /// Warm-up: step and mean negative log-prob per token.
    WarmUp { step: usize, loss: f32 },
    /// DPO: step and metrics of its training batch, before the step was taken.
    Train { step: usize, metrics: PairMetrics<f32> },
    /// DPO: number of steps taken and how the policy does on all held-out pairs.
    HeldOut { step: usize, evaluation: Evaluation },
}

impl History {
    /// A history that goes on from the lines that [`csv`](Self::csv) gave, or from none. They take the place of what is
    /// in the file at `path`, which no other run may be writing.
    pub fn begin(path: &Path, lines: &str) -> Result<Self> {
        let rows = lines.lines().skip(1).map(Row::parse).collect::<Result<_>>()?;
        let cannot = || format!("cannot write {}", path.display());
        let csv = OpenOptions::new().append(true).create(true).open(path).with_context(cannot)?;
        match csv.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => bail!("{}: another run is writing it", path.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        csv.set_len(0).with_context(cannot)?;
        let mut history = History { rows, csv };
        let csv = history.csv();
        history.csv.write_all(csv.as_bytes()).with_context(cannot)?;
        Ok(history)
    }

    /// Keeps a row, and appends it to the file.
    pub fn push(&mut self, row: Row) -> Result<()> {
        self.csv.write_all(format!("{row}\n").as_bytes()).context("cannot write the metrics")?;
        self.rows.push(row);
        Ok(())
    }

    /// All lines of the file.
    pub fn csv(&self) -> String {
        [HEADER.to_string()]
            .into_iter()
            .chain(self.rows.iter().map(Row::to_string))
            .map(|line| line + "\n")
            .collect()
    }

    /// Step and loss of the warm-up.
    pub fn warm_up(&self) -> impl DoubleEndedIterator<Item = (usize, f32)> {
        self.rows.iter().filter_map(|row| match *row {
            Row::WarmUp { step, loss } => Some((step, loss)),
            _ => None,
        })
    }

    /// Step and metrics of the training batches of DPO.
    pub fn train(&self) -> impl DoubleEndedIterator<Item = (usize, PairMetrics<f32>)> {
        self.rows.iter().filter_map(|row| match *row {
            Row::Train { step, metrics } => Some((step, metrics)),
            _ => None,
        })
    }

    /// Step and evaluation of the held-out pairs.
    pub fn held_out(&self) -> impl DoubleEndedIterator<Item = (usize, Evaluation)> {
        self.rows.iter().filter_map(|row| match *row {
            Row::HeldOut { step, evaluation } => Some((step, evaluation)),
            _ => None,
        })
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // Closing the file would leave it locked while a process that is being started still has a copy of the handle.
        // Where that fails, closing it has to do.
        let _ = self.csv.unlock();
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = |metrics: &PairMetrics<f32>| {
            let PairMetrics { loss, chosen_reward, rejected_reward, margin, accuracy, .. } = metrics;
            format!("{loss},{chosen_reward},{rejected_reward},{margin},{accuracy}")
        };
        match self {
            Row::WarmUp { step, loss } => write!(f, "sft,train,{step},{loss},,,,,"),
            Row::Train { step, metrics: m } => write!(f, "dpo,train,{step},{},", metrics(m)),
            Row::HeldOut { step, evaluation: Evaluation { metrics: m, preference_accuracy } } => {
                write!(f, "dpo,held-out,{step},{},{preference_accuracy}", metrics(m))
            }
        }
    }
}

impl Row {
    /// The row that is displayed so, to the bit: Rust writes as many digits of a number as it takes to read it back.
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let wrong = || anyhow!("metrics: {line:?} is no line of them");
        ensure!(fields.len() == HEADER.split(',').count(), wrong());
        let number = |field: usize| fields[field].parse::<f32>().map_err(|_| wrong());
        let step = fields[2].parse().map_err(|_| wrong())?;
        let metrics = || -> Result<_> {
            Ok(PairMetrics {
                loss: number(3)?,
                chosen_reward: number(4)?,
                rejected_reward: number(5)?,
                margin: number(6)?,
                accuracy: number(7)?,
                // A line has no counts.
                ..PairMetrics::default()
            })
        };
        match (fields[0], fields[1]) {
            ("sft", "train") => Ok(Row::WarmUp { step, loss: number(3)? }),
            ("dpo", "train") => Ok(Row::Train { step, metrics: metrics()? }),
            ("dpo", "held-out") => {
                let evaluation = Evaluation { metrics: metrics()?, preference_accuracy: number(8)? };
                Ok(Row::HeldOut { step, evaluation })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_to_the_bit() {
        let metrics = PairMetrics {
            loss: 1.0 / 3.0,
            chosen_reward: -0.0,
            rejected_reward: f32::NAN,
            margin: 1e-45,
            accuracy: f32::INFINITY,
            ..PairMetrics::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let mut history = History::begin(&path, "").unwrap();
        history.push(Row::WarmUp { step: 1, loss: f32::MIN_POSITIVE }).unwrap();
        history.push(Row::Train { step: 2, metrics }).unwrap();
        history
            .push(Row::HeldOut { step: 2, evaluation: Evaluation { metrics, preference_accuracy: 0.1 } })
            .unwrap();
        let lines = history.csv();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines);

        // The file is of one run at a time.
        let error = History::begin(&path, "").err().unwrap().to_string();
        assert!(error.ends_with("metrics.csv: another run is writing it"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines);

        drop(history);
        std::fs::write(&path, "of a step after the checkpoint").unwrap();
        let history = History::begin(&path, &lines).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines);
        let (_, read) = history.train().next().unwrap();
        let bits = |m: &PairMetrics<f32>| [m.loss, m.chosen_reward, m.margin, m.accuracy].map(f32::to_bits);
        assert_eq!(bits(&read), bits(&metrics));
        assert!(read.rejected_reward.is_nan());
    }

    #[test]
    fn lines_that_are_none_are_refused() {
        for line in
            ["", "dpo,train,1", "sft,train,x,1,,,,,", "dpo,else,1,1,1,1,1,1,1", "dpo,train,1,1,1,1,1,,"]
        {
            let error = Row::parse(line).unwrap_err().to_string();
            assert_eq!(error, format!("metrics: {line:?} is no line of them"));
        }
    }
}
