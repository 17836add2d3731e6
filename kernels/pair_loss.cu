// The stage pair_loss alone, for log-probs that come from elsewhere. One block.
#include "pair/pair_stage.cuh"

extern "C" __global__ void __launch_bounds__(DPO_PAIR_LOSS_THREADS, DPO_PAIR_LOSS_BLOCKS) dpo_pair_loss(const __grid_constant__ DpoPairLossAlone p) {
    __shared__ DpoProgress progress;
    if (threadIdx.x < sizeof(DpoProgress) / sizeof(u32)) reinterpret_cast<u32 *>(&progress)[threadIdx.x] = 0;
    PairStage{p.loss, p.logps, p.scored, p.sequences}.run(&progress);
    if (threadIdx.x == 0) publish(&progress, p.status);
}
