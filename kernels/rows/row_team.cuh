// What a team of threads works on: a row, or some slices of it.
//
// The host decides how rows are divided among blocks (src/cuda/tuning.rs): several rows to a block, or several blocks to a
// row. Which elements a thread meets in which order depends on the index in the row alone, so a row's sum has the same
// bits wherever the row stands in the batch.
#pragma once

#include "params.h"
#include "primitives/reduce.cuh"

struct RowTeam {
    u32 first_row, end_row; // rows of this block
    u32 row;                // this team's; from end_row on there is none
    u32 slice;              // the first one of this block
    u32 threads; // threads that share the slice, whole warps
    u32 thread;  // of this thread among them

    __device__ RowTeam(const DpoRowPartition &partition, const DpoBatch &batch) {
        threads = blockDim.x / partition.rows_per_block;
        thread = threadIdx.x % threads;
        first_row = batch.first_row + blockIdx.x / partition.blocks_per_row * partition.rows_per_block;
        end_row = min(first_row + partition.rows_per_block, batch.end_row);
        row = first_row + threadIdx.x / threads;
        slice = blockIdx.x % partition.blocks_per_row * partition.slices_per_block;
    }

    // Where a block never has several rows, which leaves little to keep in registers, and the blocks of a row are a power of
    // two, which spares two divisions.
    __device__ RowTeam(u32 blocks_per_row, const DpoBatch &batch)
        : first_row(batch.first_row + (blockIdx.x >> (31 - __clz(int(blocks_per_row))))), end_row(first_row + 1),
          row(first_row), slice(blockIdx.x & (blocks_per_row - 1)), threads(blockDim.x), thread(threadIdx.x) {}

    // The last block may have fewer rows than teams.
    __device__ bool has_row() const { return row < end_row; }
};
