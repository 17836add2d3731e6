// The gradient of the head's bias: dbias[v] += sum over rows of row_coef[i] * G[i, v].
//
// A block takes 32 columns, one to a lane; its warps take the rows in turn, and warp 0 adds up what they have, in their order. So
// the order is the same on every run, and no two blocks add to the same number. Rows whose c is 0 are not read.
//
// PTX instructions executed per element of G in a whole launch, at most: see tests/executed.rs.
// Executed: 20
#include "params.h"
#include "primitives/reduce.cuh"

template <class Logit> __device__ void add_bias_gradient(const DpoBiasGradient &p) {
    __shared__ float partials[DPO_HEAD_THREADS / kWarp][kWarp];
    const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    const u32 column = blockIdx.x * kWarp + lane;
    const auto *gradient = static_cast<const typename Logit::Storage *>(p.gradient) + column;
    float sum = 0.0f;
    if (column < p.columns) {
#pragma unroll 4
        for (u32 row = warp; row < p.rows; row += warps) {
            const float c = p.row_coef[row];
            if (c != 0.0f) sum = fmaf(c, Logit::widen_one(gradient[i64(row) * p.row_stride]), sum);
        }
    }
    partials[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= p.columns) return;
    for (u32 w = 1; w < warps; ++w) sum += partials[w][lane];
    p.dbias[column] += sum;
}

#define DPO_BIAS_GRADIENT(name, Logit)                                              \
    extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS) \
        dpo_bias_gradient_##name(const __grid_constant__ DpoBiasGradient p) {       \
        add_bias_gradient<Logit>(p);                                                \
    }
DPO_FOR_EACH_DTYPE(DPO_BIAS_GRADIENT)
