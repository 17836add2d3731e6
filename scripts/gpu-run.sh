#!/bin/sh
# Runs the GPU tests and benchmarks of this bundle on a Linux machine with an NVIDIA driver and nothing else.
# Usage: ./run.sh RESULTS_FOLDER
# Writes there: summary.json and summary.txt (what passed), *.log (what was said), cuda.json and cuda.txt (benchmarks),
# peers/ (PyTorch's ways beside ours, where there is a PyTorch), machine.txt. Exit status 1 if anything failed.
set -u

[ $# -eq 1 ] || { echo "usage: $0 RESULTS_FOLDER" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$out" || exit 2

{
    date -u +%Y-%m-%dT%H:%M:%SZ
    uname -srm
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv 2>&1
} >machine.txt

: >summary.txt
json=
failed=0
step() { # name, then the command
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$name.log" 2>&1; then result=passed; else result=failed failed=1; fi
    seconds=$(($(date +%s) - start))
    printf '%-12s %-7s %5s s\n' "$name" "$result" "$seconds" | tee -a summary.txt
    json="$json${json:+, }{\"step\": \"$name\", \"result\": \"$result\", \"seconds\": $seconds}"
}
skip() {
    printf '%-12s skipped (%s)\n' "$1" "$2" | tee -a summary.txt
    json="$json${json:+, }{\"step\": \"$1\", \"result\": \"skipped\", \"why\": \"$2\"}"
}

# Without a device the tests and benchmarks would skip themselves; here that is a failure.
export DPO_REQUIRE_GPU=1
export DPO_VECTORS="$here/golden"
step tests "$here/differential" gpu --nocapture
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null 2>&1; then
        step "$tool" env DPO_REDUCED=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$here/differential" gpu --nocapture
    else
        skip "$tool" "compute-sanitizer is not on PATH"
    fi
done
step benchmarks env DPO_BENCH_OUT="$out" CRITERION_HOME="$out/criterion" "$here/cuda" --bench --noplot
rm -rf "$out/criterion"
if python3 -c 'import torch; assert torch.cuda.is_available()' >peers.log 2>&1; then
    step peers python3 "$here/peers/bench.py" --device cuda --library "$here/libdpo_kernels_c.so" --out "$out/peers"
else
    skip peers "no PyTorch here that sees the GPU"
fi

printf '[%s]\n' "$json" >summary.json
[ -f cuda.txt ] && cat cuda.txt
exit $failed
