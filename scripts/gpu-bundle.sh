#!/bin/sh
# Builds target/gpu-bundle, for a machine with a driver and PyTorch and nothing else: two folders with a run.sh, and each of
# them packed.
#   kernels        tests and benchmarks, the C ABI, the PyTorch package's wheel, what is compared with, the golden vectors
#   train          with TRAIN=1: the training run and candle's tests, which take candle's kernels to build
# Called by `make gpu-bundle`.
set -eu

# Each of three binaries embeds the kernels. Machine code for all architectures would be twice as much; where it is not of
# the GPU at hand, the driver compiles the PTX.
export DPO_KERNELS_ARCHS="${DPO_KERNELS_ARCHS:-90 compute_80}"

bundle=target/gpu-bundle
kernels=$bundle/kernels
train=$bundle/train
most_mib=60 # of a packed folder: what travels at once
rm -rf "$bundle"
mkdir -p "$kernels/peers"

# name of the target -> the executable that cargo made of it
build() {
    cargo "$@" --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable") and message["target"]["kind"] != ["custom-build"]:
        print(message["target"]["name"], message["executable"])'
}
strip_into() { # folder; names and executables come on standard input
    while read -r name executable; do
        strip -o "$1/$name" "$executable"
    done
}
finish() { # folder
    git describe --always --dirty --exclude '*' >"$1/commit"
    install -m 755 scripts/gpu-run.sh "$1/run.sh"
    tar -cJf "$1.tar.xz" -C "$bundle" "$(basename "$1")"
    kib=$(du -k "$1.tar.xz" | cut -f1)
    echo "$1.tar.xz: $kib KiB, unpacked $(du -sk "$1" | cut -f1) KiB"
    [ "$kib" -le $((most_mib * 1024)) ] || { echo "$1.tar.xz is over $most_mib MiB" >&2 && exit 1; }
}

build test --release -p dpo-kernels --test differential --no-run | strip_into "$kernels"
build bench -p dpo-kernels --bench cuda --no-run | strip_into "$kernels"
cargo build --release -p dpo-kernels-c
strip -o "$kernels/libdpo_kernels_c.so" "${CARGO_TARGET_DIR:-target}/release/libdpo_kernels_c.so"
# The wheel as it is, and unpacked, since what runs it there is Python and PyTorch.
DPO_KERNELS_CUDA=1 scripts/test-torch.sh wheel
mkdir "$kernels/torch"
cp target/torch/wheels/*.whl "$kernels"
python3 -m zipfile -e "$kernels"/*.whl "$kernels/torch"
cp integrations/torch/tests/test_cuda.py "$kernels/torch"
cp -r tests/golden "$kernels/golden"
cp benches/peers/*.py integrations/torch/python/dpo_kernels/_structs.py "$kernels/peers"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --no-compile \
    --target "$kernels/peers/wheels" -r benches/peers/requirements-cuda.txt
finish "$kernels"

if [ -n "${TRAIN:-}" ]; then
    mkdir -p "$train"
    cargo run --release -p dpo-train -- --out "$train/cpu"
    find "$train/cpu" -type f ! -name metrics.csv -delete
    # shellcheck disable=SC1091
    . target/tools/cuda-env
    # The GPU that the bundle is for is not this machine's.
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" CARGO_TARGET_DIR=target/cuda
    build build --release -p dpo-train --features cuda | strip_into "$train"
    # With both packages the dependencies have the features that they have above, and candle's kernels are not built again.
    build test --release -p dpo-kernels-candle -p dpo-train --features cuda --test cuda --no-run | strip_into "$train"
    mv "$train/cuda" "$train/candle-cuda"
    cp -r examples/train/data "$train/data"
    install -m 755 scripts/gpu-train.sh "$train/train.sh"
    finish "$train"
fi
echo "on the machine with the GPU: tar -xf FOLDER.tar.xz && FOLDER/run.sh RESULTS_FOLDER [PART...]"
