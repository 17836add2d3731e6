/*
 * The memory floor: what any pass over S bytes of logits must do at the least. The caller gives each thread its part.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* A forward pass reads S. The sum keeps the compiler from leaving the reads out. */
uint64_t floor_read(const uint64_t *from, size_t words) {
    uint64_t sum = 0;
    for (size_t i = 0; i < words; i++) sum += from[i];
    return sum;
}

/* A backward pass reads S and writes S; streaming stores do not read what they are about to overwrite. */
void floor_copy(uint64_t *restrict to, const uint64_t *restrict from, size_t words) {
#ifdef __SSE2__
    if ((uintptr_t)to % 16 == 0 && words % 2 == 0) {
        for (size_t i = 0; i < words; i += 2)
            _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
        _mm_sfence();
        return;
    }
#endif
    memcpy(to, from, words * sizeof *to);
}
