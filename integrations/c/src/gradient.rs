//! The numbers of a [`dpo_gradient`], in whichever memory its arrays are.

use dpo_kernels::Result;

use crate::given::given;
use crate::header::*;

/// The numbers that `backward` is given.
pub(crate) struct Numbers {
    pub upstream_scale: f32,
    pub threshold: f32,
}

impl Numbers {
    pub fn of(gradient: &dpo_gradient) -> Result<Self> {
        let (upstream_scale, threshold) = given![gradient.given;
            DPO_GRADIENT_UPSTREAM_SCALE => "upstream_scale": gradient.upstream_scale,
            DPO_GRADIENT_THRESHOLD => "threshold": gradient.threshold,
        ];
        Ok(Numbers { upstream_scale: upstream_scale.unwrap_or(1.0), threshold: threshold.unwrap_or(0.0) })
    }
}
