// What the passes found of the scored rows, which the head has put together, goes to where these rows stand in the caller's batch.
//
// A warp takes a scored row, and the rows before it that are not scored, whose results are 0; the last one takes those behind it,
// too.
//
// PTX instructions executed per scored row in a whole launch, at most: see tests/executed.rs.
// Executed: 2350
#include "params.h"
#include "primitives/reduce.cuh"

__device__ inline void zero(float *values, u32 begin, u32 end) {
    for (u32 row = begin + threadIdx.x % kWarp; row < end; row += kWarp) values[row] = 0.0f;
}

extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS)
    dpo_token_results(const __grid_constant__ DpoTokenResults p) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        const DpoTrouble of_rows[] = {DPO_BAD_LABEL, DPO_NONFINITE_ROW};
        for (const DpoTrouble kind : of_rows) {
            const u32 first = p.status->first[kind];
            if (first != DPO_NO_TROUBLE) p.status->first[kind] = u32(p.names[first]);
        }
    }
    const u32 i = blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (i >= p.scored_rows) return;
    const u32 row = u32(p.names[i]), before = i == 0 ? 0 : u32(p.names[i - 1]) + 1;
#pragma unroll
    for (int result = 0; result < DPO_TOKEN_RESULTS; ++result) {
        float *all = p.all[result];
        if (!all) continue;
        zero(all, before, row);
        if (threadIdx.x % kWarp == 0) all[row] = p.scored[result][i];
        if (i + 1 == p.scored_rows) zero(all, row + 1, p.rows);
    }
}
