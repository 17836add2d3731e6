#!/bin/sh
# The part `train` of the GPU bundle's run.sh: candle's tests on the GPU, and the training run of `make train` there, which
# must end at the held-out accuracy that it ended at on the CPU of the machine that made the bundle.
# Usage: ./train.sh RESULTS_FOLDER, in which train.md and train/ are written
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$1
# Sums come in another order on a GPU, and steps build on steps: of the 114 held-out pairs so many may end up otherwise.
pairs_off=4

# candle's CUDA backend is linked to cublas, cudart and curand. PyTorch's wheels for CUDA 13 bring them along; PyTorch 2.15 no
# longer brings curand, which is the wheel nvidia-curand.
cuda=$(python3 -c '
import glob, sys
print(":".join(folder for path in sys.path for folder in glob.glob(path + "/nvidia/cu13/lib")))' || true)
export LD_LIBRARY_PATH="$cuda:${LD_LIBRARY_PATH:-}"

"$here/candle-cuda" --nocapture
start=$(date +%s)
"$here/dpo-train" --device cuda --data "$here/data/train.jsonl" --eval-data "$here/data/eval.jsonl" --out "$out/train"
seconds=$(($(date +%s) - start))

last() { awk -F, '$1 == "dpo" && $2 == "held-out" { accuracy = $8 } END { print accuracy }' "$1/metrics.csv"; }
on_cpu=$(last "$here/cpu")
on_gpu=$(last "$out/train")
echo "Held-out reward accuracy $on_gpu after $seconds s on the GPU, $on_cpu on the CPU." | tee "$out/train.md"
awk -v cpu="$on_cpu" -v gpu="$on_gpu" -v most="$pairs_off" \
    'BEGIN { off = 114 * (gpu - cpu); exit !(gpu != "" && -most <= off && off <= most) }' ||
    { echo "error: the accuracy on the GPU is not the CPU's" >&2 && exit 1; }
