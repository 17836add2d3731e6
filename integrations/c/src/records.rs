//! What there is one of in a batch, between the two sides; and the check of a status.

use dpo_kernels::{MeanTokenMetrics, PairMetrics, Status};

use crate::failure::guard;
use crate::header::*;
use crate::pointers::pointer;

impl From<Status> for dpo_status {
    fn from(status: Status) -> Self {
        let place = |place: Option<usize>| place.map_or(DPO_NO_TROUBLE, |place| place as u32);
        dpo_status {
            bad_label: place(status.bad_label),
            nonfinite_row: place(status.nonfinite_row),
            empty_sequence: place(status.empty_sequence),
            bad_cu_seqlens: place(status.bad_cu_seqlens),
            bad_pair: place(status.bad_pair),
            bad_pair_input: place(status.bad_pair_input),
        }
    }
}

impl From<dpo_status> for Status {
    fn from(status: dpo_status) -> Self {
        let place = |place: u32| (place != DPO_NO_TROUBLE).then_some(place as usize);
        Status {
            bad_label: place(status.bad_label),
            nonfinite_row: place(status.nonfinite_row),
            empty_sequence: place(status.empty_sequence),
            bad_cu_seqlens: place(status.bad_cu_seqlens),
            bad_pair: place(status.bad_pair),
            bad_pair_input: place(status.bad_pair_input),
        }
    }
}

impl From<PairMetrics<f32>> for dpo_pair_metrics {
    fn from(metrics: PairMetrics<f32>) -> Self {
        let PairMetrics { pairs, chosen, rejected, loss, chosen_reward, rejected_reward, margin, accuracy } =
            metrics;
        dpo_pair_metrics { pairs, chosen, rejected, loss, chosen_reward, rejected_reward, margin, accuracy }
    }
}

impl From<MeanTokenMetrics<f32>> for dpo_mean_token_metrics {
    fn from(mean: MeanTokenMetrics<f32>) -> Self {
        let MeanTokenMetrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 } = mean;
        dpo_mean_token_metrics { scored, entropy, accuracy, mean_logit, logsumexp, sum_p2 }
    }
}

/// See the header.
///
/// # Safety
///
/// `status` is null or points to a status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_status_check(status: *const dpo_status) -> dpo_result {
    guard(|| {
        pointer("status", status)?;
        // SAFETY: not null, aligned, and the caller's promise.
        let status = unsafe { *status };
        Ok(Status::from(status).check()?)
    })
}

/// On a GPU the kernels write the records, so theirs are laid out as the header's.
#[cfg(feature = "cuda")]
const _: () = {
    use std::mem::{offset_of, size_of};

    use dpo_kernels::cuda::params;

    const fn first(trouble: params::DpoTrouble) -> usize {
        4 * trouble as usize
    }
    assert!(DPO_NO_TROUBLE == params::DPO_NO_TROUBLE);
    assert!(size_of::<dpo_status>() == size_of::<params::DpoStatus>());
    assert!(offset_of!(dpo_status, bad_label) == first(params::DPO_BAD_LABEL));
    assert!(offset_of!(dpo_status, nonfinite_row) == first(params::DPO_NONFINITE_ROW));
    assert!(offset_of!(dpo_status, empty_sequence) == first(params::DPO_EMPTY_SEQUENCE));
    assert!(offset_of!(dpo_status, bad_cu_seqlens) == first(params::DPO_BAD_CU_SEQLENS));
    assert!(offset_of!(dpo_status, bad_pair) == first(params::DPO_BAD_PAIR));
    assert!(offset_of!(dpo_status, bad_pair_input) == first(params::DPO_BAD_PAIR_INPUT));

    macro_rules! same_layout {
        ($ours:ident, $kernels:ident: $($field:ident)*) => {
            assert!(size_of::<$ours>() == size_of::<params::$kernels>());
            $(assert!(offset_of!($ours, $field) == offset_of!(params::$kernels, $field));)*
        };
    }
    same_layout!(dpo_pair_metrics, DpoPairMetrics:
        pairs chosen rejected loss chosen_reward rejected_reward margin accuracy);
    same_layout!(dpo_mean_token_metrics, DpoMeanTokenMetrics: scored entropy accuracy mean_logit logsumexp sum_p2);
    same_layout!(dpo_batch_metrics, DpoBatchMetrics: status pairs tokens);
};
