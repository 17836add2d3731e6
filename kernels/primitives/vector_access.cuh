// Loads and stores of 16 bytes, which need not begin at a multiple of 16.
#pragma once

#include "primitives/dtypes.cuh"

// Bytes past the last 16-byte boundary.
__device__ inline u32 phase_of(const void *address) { return u32(u64(address)) & 15u; }

// Logits are touched once by each pass, so they should be the first to leave the caches.
__device__ inline Vector load_streaming(const void *address) {
    const uint4 v = __ldcs(static_cast<const uint4 *>(address));
    return {{v.x, v.y, v.z, v.w}};
}

__device__ inline void store_streaming(void *address, const Vector &v) {
    __stcs(static_cast<uint4 *>(address), make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]));
}

// The 16 bytes that begin `phase` bytes into the first of two neighbouring vectors, which come whole: by value.
__device__ inline Vector shift_together(Vector low, Vector high, u32 phase) {
    u32 w[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        w[i] = low.word[i];
        w[i + 4] = high.word[i];
    }
    // Whole words first, by selects: an index only known at run time would push the array out of registers.
    if (phase & 8u) {
#pragma unroll
        for (int i = 0; i < 6; ++i) w[i] = w[i + 2];
    }
    if (phase & 4u) {
#pragma unroll
        for (int i = 0; i < 5; ++i) w[i] = w[i + 1];
    }
    const u32 bits = (phase & 3u) * 8u;
    Vector v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.word[i] = __funnelshift_r(w[i], w[i + 1], bits);
    return v;
}
