// What is wrong with the data: the first offender of each kind.
#pragma once

#include "params.h"
#include "primitives/dtypes.cuh"

// Remembers the first offender of a kind, in whatever order blocks come.
__device__ inline void report(DpoProgress *progress, DpoTrouble kind, u32 index) {
    atomicMax(&progress->worst[kind], ~index);
}

// Hands the findings to the caller and clears them for the next launch. One thread.
__device__ inline void publish(DpoProgress *progress, DpoStatus *status) {
    for (int kind = 0; kind < DPO_TROUBLES; ++kind) {
        status->first[kind] = ~progress->worst[kind];
        progress->worst[kind] = 0;
    }
}
