//! A plan: steps, one after the other.

use super::launch::Launch;

/// What to do, in order.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a plan does nothing until it is run"]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// A plan of one launch.
    pub(super) fn of(launch: Launch) -> Self {
        Plan { steps: vec![Step::Launch(launch)] }
    }

    /// The steps, the first one first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The launches among the steps.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().map(|Step::Launch(launch)| launch)
    }
}

/// One step of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// A kernel of this crate.
    Launch(Launch),
}
