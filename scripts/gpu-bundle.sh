#!/bin/sh
# Builds target/gpu-bundle: the test and benchmark executables and the C ABI, stripped, the golden vectors, the
# comparison with PyTorch, and run.sh. Called by `make gpu-bundle`.
set -eu

# Each of three binaries embeds the kernels. Machine code for all architectures would be twice as much; where it is not of
# the GPU at hand, the driver compiles the PTX.
export DPO_KERNELS_ARCHS="${DPO_KERNELS_ARCHS:-90 compute_80}"

bundle=target/gpu-bundle
rm -rf "$bundle"
mkdir -p "$bundle"

# name of the target -> the executable that cargo made of it
build() {
    cargo "$@" --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message.get("executable") and message["target"]["kind"] != ["custom-build"]:
        print(message["target"]["name"], message["executable"])'
}

{
    build test --release -p dpo-kernels --test differential --no-run
    build bench -p dpo-kernels --bench cuda --no-run
} | while read -r name executable; do
    strip -o "$bundle/$name" "$executable"
done
cp -r tests/golden "$bundle/golden"
cargo build --release -p dpo-kernels-c
strip -o "$bundle/libdpo_kernels_c.so" "${CARGO_TARGET_DIR:-target}/release/libdpo_kernels_c.so"
mkdir "$bundle/peers"
cp benches/peers/*.py "$bundle/peers"
install -m 755 scripts/gpu-run.sh "$bundle/run.sh"

kib=$(du -sk "$bundle" | cut -f1)
[ "$kib" -le 61440 ] || { echo "$bundle is $kib KiB, over 60 MiB" >&2; exit 1; }
echo "$bundle: $kib KiB; on the machine with the GPU: ./run.sh RESULTS_FOLDER"
