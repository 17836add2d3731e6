//! The numbers that `backward` is given, in whichever memory the arrays beside them are.

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

/// The factor of every coefficient of a head's rows that the host knows.
pub(crate) fn upstream_scale(gradients: &dpo_lm_head_gradients) -> Result<f32> {
    let (upstream_scale,) = given![gradients.given;
        DPO_GRADIENT_UPSTREAM_SCALE => "upstream_scale": gradients.upstream_scale,
    ];
    Ok(upstream_scale.unwrap_or(1.0))
}

/// The coefficient up to which a head's rows are skipped.
pub(crate) fn threshold(inputs: &dpo_lm_head_backward_inputs) -> Result<f32> {
    let (threshold,) = given![inputs.given; DPO_GRADIENT_THRESHOLD => "threshold": inputs.threshold];
    Ok(threshold.unwrap_or(0.0))
}
