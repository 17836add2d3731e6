#!/bin/sh
# dpo-kernels beside what a user would pick instead, on the CPU. Results in target/bench-peers/: cpu.md, cpu.json,
# cpu.png, and from hidden states heads.md and heads.json. Called by `make bench-peers`; arguments go to benches/peers/bench.py
# and bench_heads.py. PyTorch, TRL and Liger, pinned, go into a virtual environment under target/, which is kept.
set -eu

out=target/bench-peers
peers=benches/peers
mkdir -p "$out"

requirements=$(cat $peers/requirements.txt $peers/requirements-cuda.txt)
if [ "$requirements" != "$(cat "$out/venv/installed.txt" 2>/dev/null)" ]; then
    echo "installing $peers/requirements.txt and requirements-cuda.txt into $out/venv" >&2
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    pip() { "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
    pip -r $peers/requirements.txt
    pip --no-deps -r $peers/requirements-cuda.txt
    echo "$requirements" > "$out/venv/installed.txt"
fi

${CARGO:-cargo} build --release -p dpo-kernels-c --no-default-features
cc -O3 -march=native -Wall -Wextra -Werror -shared -fPIC $peers/memory_bound.c -o "$out/libmemory_bound.so"

# What torch.compile makes is kept too: the second run starts sooner.
export TORCHINDUCTOR_CACHE_DIR="$(pwd)/$out/inductor"
library="${CARGO_TARGET_DIR:-target}/release/libdpo_kernels_c.so"
"$out/venv/bin/python" $peers/bench.py --library "$library" --memory-bound "$out/libmemory_bound.so" --out "$out" "$@"
"$out/venv/bin/python" $peers/bench_heads.py --library "$library" --out "$out" "$@"
