// What follows the rows: a sequence's log-prob once all of its rows are in, and the pairs once all sequences are.
//
// The last block to finish a sequence sums it; the last of all computes the pairs. Nobody waits for anybody, so the order
// in which the device runs the blocks does not matter, and neither does it show in the results.
#pragma once

#include "batch/packed.cuh"
#include "batch/sequence_sum.cuh"
#include "batch/token_metric_sums.cuh"
#include "pair/pair_stage.cuh"
#include "primitives/arrive.cuh"
#include "rows/row_team.cuh"

// Once the rows of a block are in, it does what no block has left to others: the sequences and, at the end, the pairs.
// All of its threads. `kTokenMetrics`: there are token metrics to sum.
template <bool kTokenMetrics> __device__ void finish_rows(const DpoForward &p, const RowTeam &team) {
    // A padded batch's rows count once their sequence is in, which leaves one count to most blocks. A packed batch's count at
    // once, since cu_seqlens out of order has sequences that are never complete.
    u32 counted = p.batch.cu_seqlens ? team.end_row - team.first_row : 0;
    // A run of rows of one sequence at a time.
    for (u32 row = team.first_row; row < team.end_row;) {
        const RowContext at(p.batch, row);
        const u32 run = at.in_sequence ? min(at.end, team.end_row) - row : 1;
        if (at.in_sequence && arrive_last(&p.sequence_rows_done[at.sequence], run, at.end - at.begin)) {
            sum_sequence(p, at);
            if (kTokenMetrics) sum_tokens(p, at);
            if (!p.batch.cu_seqlens) counted += at.end - at.begin;
        }
        row += run;
    }
    if (counted == 0 || !arrive_last(&p.progress->rows_done, counted, p.batch.rows)) return;
    if (p.batch.cu_seqlens) settle_packed<kTokenMetrics>(p);
    if (kTokenMetrics) mean_tokens(p);
    if (p.loss.pairs > 0) PairStage{p.loss, p.logps, p.scored, p.batch.sequences}.run(p.progress);
    if (threadIdx.x == 0) publish(p.progress, p.status);
}
