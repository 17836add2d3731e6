// c of each row, once for all that the head multiplies by it.
//
// The rows are scored ones. A warp takes a row.
#include "batch/row_coef.cuh"
#include "batch/row_context.cuh"

// Also what says which rows are skipped: a c of 0, or one that is worth no more than the threshold, of a row whose label is good. A
// bad label is never hidden.
__device__ inline float coef_or_skipped(const DpoRowCoef &p, u32 row) {
    const RowContext at(p.batch, row);
    if (!at.label_in(p.batch.columns)) return not_a_number();
    const float coef = row_coef(p, at.sequence, row);
    return fabsf(coef) <= p.threshold ? 0.0f : coef;
}

extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS)
    dpo_row_coef(const __grid_constant__ DpoRowCoef p) {
    const u32 row = p.batch.first_row + blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (row >= p.batch.end_row) return;
    const float c = coef_or_skipped(p, row);
    if (threadIdx.x % kWarp != 0) return;
    p.row_coef[row - p.batch.first_row] = c;
    const bool finite = isfinite(c) && isfinite(p.logsumexp[row]);
    if (p.nonfinite_row && c != 0.0f && !finite) atomicMin(p.nonfinite_row, u32(p.names[row]));
}
