// Element types of logits: 16-byte vectors of them, widened to f32 and rounded back, and compared as they are: `larger` has
// the larger elements of two words, where a number is larger than a NaN.
//
// No CUDA header is used. A bf16 is the upper half of an f32; an f16 converts by one instruction.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr float kMaxFloat = 3.402823466e+38f;
__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }
__device__ inline float not_a_number() { return __uint_as_float(0x7fffffffu); }

// What one thread loads or stores at a time, as raw bits.
struct alignas(16) Vector {
    u32 word[4];
};

struct F32 {
    typedef float Storage;
    static constexpr int kPerWord = 1;
    static constexpr float kLargest = kMaxFloat;

    static __device__ void widen(u32 word, float *out) { out[0] = __uint_as_float(word); }
    static __device__ u32 narrow(const float *in) { return __float_as_uint(in[0]); }
    static __device__ u32 larger(u32 a, u32 b) {
        return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
    }
    static __device__ float widen_one(Storage bits) { return bits; }
    static __device__ Storage narrow_one(float value) { return value; }
};

struct BF16 {
    typedef unsigned short Storage;
    static constexpr int kPerWord = 2;
    static constexpr float kLargest = 3.3895314e+38f;

    static __device__ void widen(u32 word, float *out) {
        out[0] = __uint_as_float(word << 16);
        out[1] = __uint_as_float(word & 0xffff0000u);
    }
    static __device__ u32 larger(u32 a, u32 b) {
        u32 word;
        asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
        return word;
    }
    static __device__ u32 narrow(const float *in) {
        u32 word;
        asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(word) : "f"(in[0]), "f"(in[1]));
        return word;
    }
    static __device__ float widen_one(Storage bits) { return __uint_as_float(u32(bits) << 16); }
    static __device__ Storage narrow_one(float value) {
        const float pair[2] = {value, 0.0f};
        return Storage(narrow(pair));
    }
};

struct F16 {
    typedef unsigned short Storage;
    static constexpr int kPerWord = 2;
    static constexpr float kLargest = 65504.0f;

    static __device__ void widen(u32 word, float *out) {
        asm("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi; }"
            : "=f"(out[0]), "=f"(out[1])
            : "r"(word));
    }
    static __device__ u32 larger(u32 a, u32 b) {
        u32 word;
        asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
        return word;
    }
    static __device__ u32 narrow(const float *in) {
        u32 word;
        asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(word) : "f"(in[0]), "f"(in[1]));
        return word;
    }
    static __device__ float widen_one(Storage bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
    static __device__ Storage narrow_one(float value) {
        const float pair[2] = {value, 0.0f};
        return Storage(narrow(pair));
    }
};

// Elements of a 16-byte vector.
template <class Logit> constexpr int kWidth = 4 * Logit::kPerWord;

template <class Logit> __device__ void widen(const Vector &vector, float (&out)[kWidth<Logit>]) {
#pragma unroll
    for (int w = 0; w < 4; ++w) Logit::widen(vector.word[w], out + w * Logit::kPerWord);
}

template <class Logit> __device__ Vector narrow(const float (&in)[kWidth<Logit>]) {
    Vector vector;
#pragma unroll
    for (int w = 0; w < 4; ++w) vector.word[w] = Logit::narrow(in + w * Logit::kPerWord);
    return vector;
}

// The same value everywhere.
template <class Logit> __device__ Vector all(float value) {
    float values[kWidth<Logit>];
#pragma unroll
    for (int e = 0; e < kWidth<Logit>; ++e) values[e] = value;
    return narrow<Logit>(values);
}

// The entry points of a kernel: `ENTRY(name, Logit)` for every element type.
#define DPO_FOR_EACH_DTYPE(ENTRY) \
    ENTRY(f32, F32)               \
    ENTRY(f16, F16)               \
    ENTRY(bf16, BF16)
