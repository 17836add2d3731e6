//! A plan: steps, one after the other.

use super::launch::Launch;
use super::product::Product;
use crate::cuda::address::DeviceAddress;

/// What to do, in order.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a plan does nothing until it is run"]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// A plan of one launch.
    pub(super) fn of(launch: Launch) -> Self {
        Plan::from(vec![Step::Launch(launch)])
    }

    /// The steps, the first one first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The launches among the steps.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(launch),
            Step::Product(_) | Step::Zero { .. } => None,
        })
    }

    /// The products among the steps.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.steps.iter().filter_map(|step| match step {
            Step::Product(product) => Some(product),
            Step::Launch(_) | Step::Zero { .. } => None,
        })
    }
}

impl From<Vec<Step>> for Plan {
    fn from(steps: Vec<Step>) -> Self {
        Plan { steps }
    }
}

impl IntoIterator for Plan {
    type Item = Step;
    type IntoIter = std::vec::IntoIter<Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.steps.into_iter()
    }
}

/// One step of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most steps are launches, and a plan has few")]
pub enum Step {
    /// A kernel of this crate.
    Launch(Launch),
    /// A product of matrices.
    Product(Product),
    /// So many bytes from an address on become 0.
    Zero {
        /// Where they start.
        address: DeviceAddress,
        /// How many there are.
        bytes: usize,
    },
}
