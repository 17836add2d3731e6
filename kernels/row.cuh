// A row of logits, read and written 16 aligned bytes at a time wherever it starts.
//
// With an odd vocabulary or stride, rows start at any multiple of the element size. Whichever phase that is, vector
// `j` holds elements `j * width ...` counted from an origin, so the order of a sum does not depend on the phase.
#pragma once

#include "row_team.cuh"

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

// The 16 bytes at any address, out of the two aligned vectors they straddle. The second is the neighbour thread's
// first, so it comes from L1: hence no streaming hint.
__device__ inline Vector load_straddling(const char *address) {
    const u32 phase = phase_of(address);
    const Vector *aligned = reinterpret_cast<const Vector *>(address - phase);
    return shift_together(aligned[0], aligned[1], phase);
}

// Where the elements of a group of vectors stand in their row.
struct VectorColumns {
    u32 first; // element of the group's first vector
    u32 step;  // from one vector's to the next one's
    u32 end;   // of the slice, or the row

    __device__ u32 element(int v, int e) const { return first + u32(v) * step + u32(e); }
    __device__ bool inside(int v, int e) const { return element(v, e) < end; }
};

// Vectors over a slice of a row of `vocab` elements. Vector `j` covers elements `first(j) ... first(j) + width`, with
// `first(j) = j * width - lead`; those outside the row do not exist. Element numbers are unsigned, so that one before
// the row is a large one.
template <class Logit> struct SliceVectors {
    typedef typename Logit::Storage Storage;

    const Storage *origin; // element -lead
    u32 vocab;
    u32 lead;
    bool straddling;
    int begin, end;             // vectors of the slice
    int whole_begin, whole_end; // those of them whose every access stays inside the row: all but four at most

    // All of a row. `lead` is below the width.
    __device__ SliceVectors(const Storage *row, u32 vocab, u32 lead) : origin(row - lead), vocab(vocab), lead(lead) {
        take(0, int((vocab + lead + kWidth<Logit> - 1) / kWidth<Logit>));
    }

    __device__ SliceVectors(const Storage *row, u32 vocab, u32 lead, const DpoRowPartition &partition, u32 slice)
        : origin(row - lead), vocab(vocab), lead(lead) {
        const int first = int(slice * partition.slice_vectors);
        take(first, slice + 1 < partition.blocks_per_row ? first + int(partition.slice_vectors)
                                                       : int((vocab + lead + kWidth<Logit> - 1) / kWidth<Logit>));
    }

    __device__ void take(int first, int last) {
        const u32 width = kWidth<Logit>;
        begin = first;
        end = last;
        // Elements between a vector's first and the boundary below it: the same for every vector of the row.
        const u32 before = phase_of(origin) / u32(sizeof(Storage));
        straddling = before != 0;
        const u32 after = straddling ? width - before : 0;
        whole_begin = min(max(begin, int((lead + before + width - 1) / width)), end);
        whole_end = vocab + lead > after ? int((vocab + lead - after) / width) : 0;
        whole_end = max(min(whole_end, end), whole_begin);
    }

    __device__ u32 first(int j) const { return u32(j) * kWidth<Logit> - lead; }
    __device__ bool contains(u32 element) const { return element < vocab; }
    __device__ bool whole(int first, int last) const { return first >= whole_begin && last < whole_end; }
    // Of vectors j, j + step, ...
    __device__ VectorColumns columns(int j, int step) const {
        return {first(j), u32(step) * kWidth<Logit>, min(vocab, first(end))};
    }
    // The vectors of the slice that are not whole, by number.
    __device__ int edges() const { return (whole_begin - begin) + (end - whole_end); }
    __device__ int edge(int number) const {
        const int head = whole_begin - begin;
        return number < head ? begin + number : whole_end + (number - head);
    }
    // Which of the threads that share the whole vectors in turn, and the edges by number, has a vector; -1: not here.
    __device__ int owner(int j, u32 threads) const {
        if (j < begin || j >= end) return -1;
        if (whole(j, j)) return int(u32(j - whole_begin) % threads);
        return j < whole_begin ? j - begin : j - whole_end + (whole_begin - begin);
    }

    template <bool kStraddling> __device__ Vector load(int j) const {
        const char *address = reinterpret_cast<const char *>(origin + i64(j) * kWidth<Logit>);
        return kStraddling ? load_straddling(address) : load_streaming(address);
    }

    // A vector at the row's edge, element by element; what lies outside is -infinity, which adds nothing to a sum.
    __device__ Vector load_edge(int j) const {
        float values[kWidth<Logit>];
#pragma unroll
        for (int e = 0; e < kWidth<Logit>; ++e) {
            const Storage *element = origin + i64(j) * kWidth<Logit> + e;
            values[e] = contains(first(j) + e) ? Logit::widen_one(*element) : -infinity();
        }
        return narrow<Logit>(values);
    }

    __device__ void store_edge(Storage *out, int j, const Vector &vector) const {
        float values[kWidth<Logit>];
        widen<Logit>(vector, values);
#pragma unroll
        for (int e = 0; e < kWidth<Logit>; ++e) {
            if (contains(first(j) + e)) out[i64(j) * kWidth<Logit> + e] = Logit::narrow_one(values[e]);
        }
    }

    // Any vector: one beyond the slice is all -infinity.
    template <bool kStraddling> __device__ Vector load_any(int j) const {
        if (whole(j, j)) return load<kStraddling>(j);
        if (j < end) return load_edge(j);
        return all<Logit>(-infinity());
    }
};
