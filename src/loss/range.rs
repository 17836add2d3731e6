//! The numbers that an argument may be: a parameter of a loss, a value of a pair, an option.

use crate::error::{Error, Result};

/// A set of numbers, with the words in which an error names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub words: &'static str,
    pub contains: fn(f64) -> bool,
}

impl Range {
    pub(crate) const ABOVE_ZERO: Range =
        Range { words: "a finite number above 0", contains: |x| x > 0.0 && x.is_finite() };

    pub(crate) const FROM_ZERO: Range =
        Range { words: "a finite number from 0", contains: |x| x >= 0.0 && x.is_finite() };

    pub(crate) const FINITE: Range = Range { words: "a finite number", contains: f64::is_finite };

    /// The value, where it lies in the range.
    pub(super) fn check(self, argument: &'static str, value: f64) -> Result<f64> {
        if (self.contains)(value) { Ok(value) } else { Err(Error::value(argument, self.words, value)) }
    }
}

/// Whether two numbers are one to the kernels: one of them may have been an f32, and the other written out in f64.
pub(super) fn same_in_f32(one: f64, other: f64) -> bool {
    one as f32 == other as f32
}
