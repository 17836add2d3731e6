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

/// What every pass asks for, and token metrics up to a level.
pub(crate) fn logps(level: MetricsLevel) -> LogpsTensors<Selection> {
    LogpsTensors { logps: true, status: true, metrics: token_metrics(level), ..LogpsTensors::default() }
}

/// What every pass asks for, and the log-probs of the tokens.
pub(crate) fn token_logps() -> LogpsTensors<Selection> {
    LogpsTensors { token_logps: true, ..logps(MetricsLevel::None) }
}

/// What is `wanted`, and what `backward` will read.
pub(crate) fn with_backward(targets: &Targets, wanted: LogpsTensors<Selection>) -> LogpsTensors<Selection> {
    LogpsTensors {
        logsumexp: true,
        logsumexp_residual: true,
        token_weights: targets.ld_alpha != 1.0,
        ..wanted
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
