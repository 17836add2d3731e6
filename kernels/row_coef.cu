// What the gradient of each row is still to be multiplied by, once for all that the head multiplies.
//
// The rows are scored ones. A warp takes a row.
//
// PTX instructions executed per row in a whole launch, at most: see tests/executed.rs.
// Executed: 3300
#include "batch/row_coef.cuh"
#include "batch/row_context.cuh"

struct RowFactor {
    float value; // 0 says that the row is skipped
    bool finite; // whether all is that the row's gradient is made of, beside its logits
};

// Of a row with coefficients c and e, which become fractions of the larger one.
__device__ inline float larger_coef(const DpoRowCoef &p, u32 row, float coef, float entropy_coef) {
    const float c = fabsf(coef), e = fabsf(entropy_coef);
    const bool skipped = is_small(p, coef) && is_small(p, entropy_coef);
    // Where one of them is NaN neither is larger, and all is NaN.
    const float larger = skipped ? 0.0f : c <= e ? e : e <= c ? c : c + e;
    if (threadIdx.x % kWarp == 0) {
        p.coef_fraction[row] = skipped ? 0.0f : coef / larger;
        p.entropy_coef[row] = skipped ? 0.0f : entropy_coef / larger;
    }
    return larger;
}

__device__ inline RowFactor row_factor(const DpoRowCoef &p, u32 row) {
    const RowContext at(p.batch, row);
    const float entropy_coef = p.entropy_coef ? times_upstream(p, p.entropy_coef[row]) : 0.0f;
    // A bad label is never hidden.
    if (!at.label_in(p.batch.columns)) return {not_a_number(), false};
    const float coef = row_coef(p, at.sequence, row);
    const bool finite = isfinite(coef) && isfinite(p.logsumexp[row]);
    if (!p.entropy_coef) return {is_small(p, coef) ? 0.0f : coef, finite};
    // Every lane has read what lane 0 writes over.
    __syncwarp();
    const float larger = larger_coef(p, row, coef, entropy_coef);
    return {larger, finite && isfinite(entropy_coef) && isfinite(p.entropy[row])};
}

extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS)
    dpo_row_coef(const __grid_constant__ DpoRowCoef p) {
    const u32 row = p.batch.first_row + blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (row >= p.batch.end_row) return;
    const RowFactor factor = row_factor(p, row);
    if (threadIdx.x % kWarp != 0) return;
    p.row_coef[row - p.batch.first_row] = factor.value;
    if (p.nonfinite_row && factor.value != 0.0f && !factor.finite) atomicMin(p.nonfinite_row, u32(p.names[row]));
}
