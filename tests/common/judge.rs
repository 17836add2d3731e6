//! Compares results with the truth, and remembers what fails and how near the rest came to its bounds.

/// Compares results with the truth, and keeps the largest error of each quantity in units of its bound.
#[derive(Debug, Default)]
pub struct Judge {
    worst: std::collections::BTreeMap<String, (f64, String)>,
    pub failures: Vec<String>,
}

impl Judge {
    /// `found` must be within `bound` of `expected`; NaN, ∞ and −∞ must be met exactly.
    pub fn close(
        &mut self,
        quantity: &str,
        place: impl Fn() -> String,
        found: f64,
        expected: f64,
        bound: f64,
    ) {
        if !expected.is_finite() || !found.is_finite() {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            if !same {
                self.failures.push(format!("{quantity} of {}: {found}, expected {expected}", place()));
            }
            return;
        }
        let error = (found - expected).abs();
        let ratio = if error == 0.0 { 0.0 } else { error / bound };
        // Negated, so that a NaN bound fails.
        if !matches!(ratio.partial_cmp(&1.0), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
            self.failures.push(format!(
                "{quantity} of {}: {found:e}, expected {expected:e}: off by {error:e}, allowed {bound:e}",
                place()
            ));
        }
        match self.worst.get_mut(quantity) {
            Some((worst, _)) if *worst >= ratio => (),
            Some(entry) => *entry = (ratio, place()),
            None => drop(self.worst.insert(quantity.to_string(), (ratio, place()))),
        }
    }

    /// [`close`](Self::close) for whole slices.
    pub fn all_close(
        &mut self,
        quantity: &str,
        name: &str,
        found: &[f64],
        expected: &[f64],
        bound: impl Fn(usize) -> f64,
    ) {
        assert_eq!(found.len(), expected.len(), "{quantity} of {name}: lengths");
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            self.close(quantity, || format!("{name}[{i}]"), found, expected, bound(i));
        }
    }

    /// Something that must hold exactly.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(what());
        }
    }

    /// One line per quantity: its largest error in units of its bound, and where that was.
    pub fn summary(&self) -> String {
        let line = |(quantity, (ratio, place)): (&String, &(f64, String))| {
            format!("  {quantity:<32} {ratio:.3} of the bound, at {place}\n")
        };
        self.worst.iter().map(line).collect()
    }
}
