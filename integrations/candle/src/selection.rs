//! Which results a call asks for.

use std::convert::Infallible;

use dpo_kernels::memory::{Conversion, Field, Memory, Record, Unallocated};
use dpo_kernels::{LogpsTensors, MetricsLevel, PairOutputTensors, TokenMetricTensors};

use crate::targets::Targets;

/// No memory, but for each result whether it is wanted.
#[derive(Debug)]
pub(crate) enum Selection {}

impl Memory for Selection {
    type Number = f32;
    type Floats = bool;
    type Counts = bool;
    type Record<T: Record> = bool;
}

/// What the log-probs alone ask for, and token metrics up to a level.
pub(crate) fn logps(level: MetricsLevel) -> LogpsTensors<Selection> {
    LogpsTensors { logps: true, status: true, metrics: token_metrics(level), ..LogpsTensors::default() }
}

/// What a loss asks of `logps`: what it gives itself, and what its `backward` will read.
pub(crate) fn logps_of_loss(targets: &Targets) -> LogpsTensors<Selection> {
    LogpsTensors {
        logsumexp: true,
        logsumexp_residual: true,
        token_weights: targets.ld_alpha != 1.0,
        ..logps(targets.metrics)
    }
}

/// All that `pair_loss` gives.
pub(crate) fn pair_outputs() -> PairOutputTensors<Selection> {
    let Ok(all) = PairOutputTensors::<Unallocated<f32>>::default().convert(&mut Everything);
    all
}

fn token_metrics(level: MetricsLevel) -> Option<TokenMetricTensors<Selection>> {
    match level {
        MetricsLevel::None => None,
        MetricsLevel::Entropy => Some(TokenMetricTensors { entropy: true, ..TokenMetricTensors::default() }),
        MetricsLevel::All => {
            let Ok(all) = TokenMetricTensors::<Unallocated<f32>>::default().convert(&mut Everything);
            Some(all)
        }
    }
}

/// Wants every field.
struct Everything;

impl Conversion<Unallocated<f32>, Selection> for Everything {
    type Error = Infallible;

    fn floats(&mut self, _: Field, (): &()) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn counts(&mut self, _: Field, (): &()) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn record<T: Record>(&mut self, _: &'static str, (): &()) -> Result<bool, Infallible> {
        Ok(true)
    }
}
