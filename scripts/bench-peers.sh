#!/bin/sh
# dpo-kernels beside what a user would pick instead, on the CPU. Results in target/bench-peers/: cpu.md, cpu.json,
# cpu.png. Called by `make bench-peers`; arguments go to benches/peers/bench.py. PyTorch, pinned, goes into a virtual
# environment under target/, which is kept.
set -eu

out=target/bench-peers
peers=benches/peers
mkdir -p "$out"

if ! cmp -s $peers/requirements.txt "$out/venv/installed.txt"; then
    echo "installing $peers/requirements.txt into $out/venv" >&2
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r $peers/requirements.txt
    cp $peers/requirements.txt "$out/venv/installed.txt"
fi

${CARGO:-cargo} build --release -p dpo-kernels-c --no-default-features
cc -O3 -march=native -Wall -Wextra -Werror -shared -fPIC $peers/memory_bound.c -o "$out/libmemory_bound.so"

# What torch.compile makes is kept too: the second run starts sooner.
TORCHINDUCTOR_CACHE_DIR="$(pwd)/$out/inductor" "$out/venv/bin/python" $peers/bench.py \
    --library "${CARGO_TARGET_DIR:-target}/release/libdpo_kernels_c.so" --memory-bound "$out/libmemory_bound.so" --out "$out" "$@"
