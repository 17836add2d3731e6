//! The numbers that are a loss's own, such as DiscoPOP's τ.

use super::range::Range;
use crate::error::{Error, Result};

/// A loss has at most so many numbers of its own.
pub const MAX_PARAMETERS: usize = 2;

/// A number of a loss's own, besides those that all losses have (β, γ, ε).
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// What constructors and error messages call it.
    pub name: &'static str,
    pub(super) usual: fn(beta: f64) -> f64,
    pub(crate) range: Range,
}

impl Parameter {
    /// Its usual value at a β.
    pub fn usual(&self, beta: f64) -> f64 {
        (self.usual)(beta)
    }

    pub(super) fn check(&self, value: f64) -> Result<f64> {
        self.range.check(self.name, value)
    }

    /// The values that are given for a loss's parameters, and the usual ones for those that are not.
    pub(super) fn or_usual(
        parameters: &[Parameter],
        beta: f64,
        given: &[f64],
    ) -> Result<[f64; MAX_PARAMETERS]> {
        if given.len() > parameters.len() {
            let expected = format!("at most {}, for this loss", parameters.len());
            return Err(Error::value("parameters", expected, given.len()));
        }
        let mut values = [0.0; MAX_PARAMETERS];
        for (i, parameter) in parameters.iter().enumerate() {
            values[i] = given.get(i).copied().unwrap_or(parameter.usual(beta));
        }
        Ok(values)
    }
}
