//! The status between the two sides, and its check.

use dpo_kernels::Status;

use crate::arguments::pointer;
use crate::failure::guard;
use crate::header::*;

impl From<Status> for dpo_status {
    fn from(status: Status) -> Self {
        let place = |place: Option<usize>| place.map_or(DPO_NO_TROUBLE, |place| place as u32);
        dpo_status {
            bad_label: place(status.bad_label),
            nonfinite_row: place(status.nonfinite_row),
            empty_sequence: place(status.empty_sequence),
            bad_cu_seqlens: place(status.bad_cu_seqlens),
            bad_pair: place(status.bad_pair),
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
        }
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

/// On a GPU the kernels write statuses, metrics and means, so theirs are laid out as the header's.
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

    use params::DpoMetrics;
    assert!(size_of::<dpo_metrics>() == size_of::<DpoMetrics>());
    assert!(offset_of!(dpo_metrics, loss) == offset_of!(DpoMetrics, loss));
    assert!(offset_of!(dpo_metrics, chosen_reward) == offset_of!(DpoMetrics, chosen_reward));
    assert!(offset_of!(dpo_metrics, rejected_reward) == offset_of!(DpoMetrics, rejected_reward));
    assert!(offset_of!(dpo_metrics, margin) == offset_of!(DpoMetrics, margin));
    assert!(offset_of!(dpo_metrics, accuracy) == offset_of!(DpoMetrics, accuracy));

    use params::DpoTokenMeans;
    assert!(size_of::<dpo_token_means>() == size_of::<DpoTokenMeans>());
    assert!(offset_of!(dpo_token_means, scored) == offset_of!(DpoTokenMeans, scored));
    assert!(offset_of!(dpo_token_means, entropy) == offset_of!(DpoTokenMeans, entropy));
    assert!(offset_of!(dpo_token_means, accuracy) == offset_of!(DpoTokenMeans, accuracy));
    assert!(offset_of!(dpo_token_means, mean_logit) == offset_of!(DpoTokenMeans, mean_logit));
    assert!(offset_of!(dpo_token_means, logsumexp) == offset_of!(DpoTokenMeans, logsumexp));
    assert!(offset_of!(dpo_token_means, sum_p2) == offset_of!(DpoTokenMeans, sum_p2));
};
