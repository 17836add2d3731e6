// Rows of a matrix to other places, times c: to[to_rows[i]] = row_coef[i] * from[from_rows[i]]. What gathers the hidden states of
// a chunk, multiplies them by c, brings their gradient back to its rows, and multiplies that by c where it stands; and what makes
// elements of another type.
//
// PTX instructions executed in a whole launch, at most: per element of rows of 1024 or more, and of clear_rows per row; see
// tests/executed.rs. Most of them start the threads, of which a row has as many as the longest ones want.
// Executed: 18.5
// Executed of 16 bits: 19
// Executed of clear_rows: 2100
//
// A row whose c is 0 becomes exactly 0, whatever is in it. A block takes a row. Where `to` is `from`, it has the same rows, and each
// thread reads just what it then overwrites.
#include "params.h"
#include "primitives/vector_access.cuh"

// Elements that a thread moves at a time: whole vectors of both types.
template <class From, class To> constexpr int kStep = kWidth<From> > kWidth<To> ? kWidth<From> : kWidth<To>;

template <class From, int kCount>
__device__ void load_elements(const typename From::Storage *from, float (&values)[kCount]) {
#pragma unroll
    for (int first = 0; first < kCount; first += kWidth<From>) {
        float part[kWidth<From>];
        widen<From>(load_streaming(from + first), part);
#pragma unroll
        for (int e = 0; e < kWidth<From>; ++e) values[first + e] = part[e];
    }
}

// Also returns whether all of them are finite, which rounding may have made of finite numbers.
template <class To, int kCount>
__device__ bool store_elements(typename To::Storage *to, const float (&values)[kCount]) {
    bool finite = true;
#pragma unroll
    for (int first = 0; first < kCount; first += kWidth<To>) {
        float part[kWidth<To>];
#pragma unroll
        for (int e = 0; e < kWidth<To>; ++e) part[e] = values[first + e];
        const Vector vector = narrow<To>(part);
        store_streaming(to + first, vector);
        widen<To>(vector, part);
#pragma unroll
        for (int e = 0; e < kWidth<To>; ++e) finite = finite && isfinite(part[e]);
    }
    return finite;
}

template <class From, class To> __device__ void move_rows(const DpoMoveRows &p) {
    const u32 i = blockIdx.x, columns = p.columns;
    const u32 from_row = p.from_rows ? u32(p.from_rows[i]) : i, to_row = p.to_rows ? u32(p.to_rows[i]) : i;
    const auto *from = static_cast<const typename From::Storage *>(p.from) + i64(from_row) * columns;
    auto *to = static_cast<typename To::Storage *>(p.to) + i64(to_row) * columns;
    const float c = p.row_coef ? p.row_coef[i] : 1.0f;
    bool finite = true;
    constexpr u32 step = kStep<From, To>;
    if (columns % step == 0 && (phase_of(from) | phase_of(to)) == 0) {
        for (u32 first = threadIdx.x * step; first < columns; first += blockDim.x * step) {
            float values[step] = {};
            if (c != 0.0f) {
                load_elements<From>(from + first, values);
#pragma unroll
                for (u32 e = 0; e < step; ++e) values[e] *= c;
            }
            finite = store_elements<To>(to + first, values) && finite;
        }
    } else {
        for (u32 at = threadIdx.x; at < columns; at += blockDim.x) {
            const auto result = To::narrow_one(c != 0.0f ? c * From::widen_one(from[at]) : 0.0f);
            finite = finite && isfinite(To::widen_one(result));
            to[at] = result;
        }
    }
    if (p.nonfinite_row && !finite) atomicMin(p.nonfinite_row, to_row);
}

#define DPO_MOVE_ROWS_KERNEL(name, From, To)                                          \
    extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS)   \
        dpo_move_rows_##name(const __grid_constant__ DpoMoveRows p) {                 \
        move_rows<From, To>(p);                                                       \
    }
DPO_MOVE_ROWS_KERNEL(f32, F32, F32)
DPO_MOVE_ROWS_KERNEL(f16, F16, F16)
DPO_MOVE_ROWS_KERNEL(bf16, BF16, BF16)
DPO_MOVE_ROWS_KERNEL(f32_to_f16, F32, F16)
DPO_MOVE_ROWS_KERNEL(f32_to_bf16, F32, BF16)
DPO_MOVE_ROWS_KERNEL(f16_to_f32, F16, F32)
DPO_MOVE_ROWS_KERNEL(bf16_to_f32, BF16, F32)

// Rows whose c is 0 have no part in a product, whatever is in them. A block takes a row; most read their c, and are done.
extern "C" __global__ void __launch_bounds__(DPO_HEAD_THREADS, DPO_HEAD_BLOCKS)
    dpo_clear_rows(const __grid_constant__ DpoClearRows p) {
    if (p.row_coef[blockIdx.x] != 0.0f) return;
    Vector *row = static_cast<Vector *>(p.matrix) + i64(blockIdx.x) * p.row_vectors;
    for (u32 v = threadIdx.x; v < p.row_vectors; v += blockDim.x) store_streaming(row + v, Vector{{0, 0, 0, 0}});
}
