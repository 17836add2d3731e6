// What a team of threads works on: a row, or one slice of it.
//
// The host decides how rows are dealt to blocks (src/cuda/tuning.rs): several rows to a block, or several blocks to a
// row. Which elements a thread meets in which order depends on the index in the row alone, so a row's sum has the same
// bits wherever the row stands in the batch.
#pragma once

#include "params.h"
#include "reduce.cuh"

struct Share {
    u32 first_row, end_row; // rows of this block
    u32 row;                // this team's; from end_row on there is none
    u32 slice;
    u32 team; // threads that share the slice, whole warps
    u32 rank; // of this thread among them

    __device__ Share(const DpoDealing &dealing, u32 rows) {
        team = blockDim.x / dealing.rows_per_block;
        rank = threadIdx.x % team;
        first_row = blockIdx.x / dealing.blocks_per_row * dealing.rows_per_block;
        end_row = min(first_row + dealing.rows_per_block, rows);
        row = first_row + threadIdx.x / team;
        slice = blockIdx.x % dealing.blocks_per_row;
    }

    // The last block may have fewer rows than teams.
    __device__ bool has_row() const { return row < end_row; }
};
