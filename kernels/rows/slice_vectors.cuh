// A row of logits, read and written 16 aligned bytes at a time wherever it starts.
//
// With an odd vocabulary or stride, rows start at any multiple of the element size. Whichever phase that is, vector
// `j` holds elements `j * width ...` counted from an origin, so the order of a sum does not depend on the phase.
#pragma once

#include "primitives/vector_access.cuh"
#include "rows/row_team.cuh"

// The columns that the elements of a group of vectors stand in.
struct VectorColumns {
    u32 first; // of the group's first vector
    u32 step;  // from one vector's to the next one's
    u32 end;   // of the slice, or the row
    u32 label; // which is left out of the sum

    __device__ u32 column(int v, int e) const { return first + u32(v) * step + u32(e); }
    __device__ bool has(int v) const { return column(v, 0) < end; }
    __device__ bool counts(int v, int e) const { return column(v, e) < end && column(v, e) != label; }
};

// Vectors over a slice of a row of `vocab` elements. Vector `j` covers elements `first(j) ... first(j) + width`, with
// `first(j) = j * width - lead`; those outside the row do not exist. Element numbers are unsigned, so that one before
// the row is a large one.
template <class Logit> struct SliceVectors {
    typedef typename Logit::Storage Storage;

    const Storage *origin;      // element -lead
    const char *aligned_origin; // the last 16-byte boundary up to there
    u32 vocab;
    u32 lead;
    u32 phase;                  // of every vector: bytes past a boundary; where not 0, it straddles two aligned ones
    int begin, end;             // vectors of the slice
    int whole_begin, whole_end; // those of them whose every access stays inside the row: all but four at most

    // All of a row. `lead` is below the width.
    __device__ SliceVectors(const Storage *row, u32 vocab, u32 lead) : origin(row - lead), vocab(vocab), lead(lead) {
        take(0, int((vocab + lead + kWidth<Logit> - 1) / kWidth<Logit>));
    }

    __device__ SliceVectors(const Storage *row, u32 vocab, u32 lead, const DpoRowPartition &partition, u32 slice)
        : origin(row - lead), vocab(vocab), lead(lead) {
        const int first = int(slice * partition.slice_vectors);
        take(first, slice + 1 < partition.slices ? first + int(partition.slice_vectors)
                                                 : int((vocab + lead + kWidth<Logit> - 1) / kWidth<Logit>));
    }

    __device__ void take(int first, int last) {
        const u32 width = kWidth<Logit>;
        begin = first;
        end = last;
        // Elements between a vector's first and the boundary below it: the same for every vector of the row.
        phase = phase_of(origin);
        aligned_origin = reinterpret_cast<const char *>(origin) - phase;
        const u32 before = phase / u32(sizeof(Storage));
        const u32 after = straddling() ? width - before : 0;
        whole_begin = min(max(begin, int((lead + before + width - 1) / width)), end);
        whole_end = vocab + lead > after ? int((vocab + lead - after) / width) : 0;
        whole_end = max(min(whole_end, end), whole_begin);
    }

    __device__ bool straddling() const { return phase != 0; }
    __device__ u32 first(int j) const { return u32(j) * kWidth<Logit> - lead; }
    __device__ bool contains(u32 element) const { return element < vocab; }
    __device__ bool whole(int first, int last) const { return first >= whole_begin && last < whole_end; }
    // Of vectors j, j + step, ...
    __device__ VectorColumns columns(int j, int step, u32 label) const {
        return {first(j), u32(step) * kWidth<Logit>, min(vocab, first(end)), label};
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

    // The aligned 16 bytes that a vector begins in.
    __device__ const char *aligned(int j) const { return aligned_origin + i64(j) * i64(sizeof(Vector)); }

    // The vector that begins there. The second that it straddles is the neighbour thread's first, so it comes from L1:
    // hence no streaming hint.
    template <bool kStraddling> __device__ Vector load_from(const char *aligned) const {
        if (!kStraddling) return load_streaming(aligned);
        const Vector *both = reinterpret_cast<const Vector *>(aligned);
        return shift_together(both[0], both[1], phase);
    }
    template <bool kStraddling> __device__ Vector load(int j) const {
        return kStraddling ? load_from<true>(aligned(j)) : load_streaming(origin + i64(j) * kWidth<Logit>);
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

    // Vectors j, j + step, ... as far as they belong to the slice, and -infinity behind. Vectors before the whole ones
    // are fewer than a step, and so are those behind.
    template <int kCount> __device__ void load_any(int j, int step, Vector (&group)[kCount]) const {
        if (straddling())
            load_whole<true>(j, step, group);
        else
            load_whole<false>(j, step, group);
        if (j >= whole_begin && whole_end == end) return;
        // The edges, one after the other, since they are few.
#pragma unroll 1
        for (int k = 0; k < kCount && j < end; ++k, j += step) {
            if (whole(j, j)) continue;
            const Vector vector = load_edge(j);
#pragma unroll
            for (int i = 0; i < kCount; ++i)
                if (i == k) group[i] = vector;
        }
    }

    template <bool kStraddling, int kCount> __device__ void load_whole(int j, int step, Vector (&group)[kCount]) const {
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            const bool is_whole = (k > 0 || j >= whole_begin) && k * step < whole_end - j;
            group[k] = is_whole ? load<kStraddling>(j + k * step) : all<Logit>(-infinity());
        }
    }
};
