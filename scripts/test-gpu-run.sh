#!/bin/sh
# Tests gpu-run.sh and gpu-train.sh, the run.sh and train.sh of the GPU bundle, with stand-ins for the driver and for what they
# run. Called by `make test`.
set -eu

scripts=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/bundle
mkdir -p "$bundle/peers" "$work/bin"
cp "$scripts/gpu-run.sh" "$bundle/run.sh"
echo abc1234 >"$bundle/commit"
export PATH="$work/bin:$PATH"

stand_in() { # path, then the lines of a script
    path=$1
    shift
    { echo '#!/bin/sh' && printf '%s\n' "$@"; } >"$path"
    chmod +x "$path"
}
# exit status, then the arguments of run.sh after its folder
run() {
    expected=$1
    shift
    rm -rf "$work/out"
    status=0
    "$bundle/run.sh" "$work/out" "$@" >"$work/log" 2>&1 || status=$?
    [ "$status" = "$expected" ] || { cat "$work/log" && fail "run.sh $* ended with $status, expected $expected"; }
}
fail() {
    echo "test-gpu-run.sh: $*" >&2
    exit 1
}
holds() { # text, file of the results
    grep -qF "$1" "$work/out/$2" || { cat "$work/out/$2" && fail "$2 lacks: $1"; }
}
lacks() {
    ! grep -qF "$1" "$work/out/$2" || fail "$2 has: $1"
}

# Without a driver nothing is run, and the record says so of every part.
stand_in "$work/bin/nvidia-smi" 'echo "NVIDIA-SMI has failed"' 'exit 9'
stand_in "$bundle/differential" "touch '$work/ran'"
run 1 tests passes peers torch memcheck racecheck profile train
for part in tests passes peers torch memcheck racecheck profile train; do
    holds "| $part | not run |" record.md
    holds "{\"part\": \"$part\", \"result\": \"not run\"" summary.json
done
holds "no driver: nvidia-smi shows no GPU" record.md
holds "## On no GPU" record.md
[ ! -e "$work/ran" ] || fail "a part ran without a driver"

# With one: the parts that were asked for, in this order, with what they leave and say.
stand_in "$work/bin/nvidia-smi" 'case $1 in' '*name*) echo "Stand-in 9000" ;;' '*driver*) echo 580.1 ;;' \
    '*) echo "1 MHz, 2 MHz" ;;' esac
stand_in "$work/bin/compute-sanitizer" 'echo "========= ERROR SUMMARY: 3 errors"' 'exit 1'
stand_in "$work/bin/python3" 'exit 1'
stand_in "$bundle/differential" '[ "$DPO_REQUIRE_GPU" = 1 ] && echo "test result: ok. 13 passed"'
stand_in "$bundle/cuda" 'echo "| 64x4096 bf16 | 12.2 (0.07) |" >"$DPO_BENCH_OUT/cuda.md"'
run 0 passes tests
holds "## On Stand-in 9000" record.md
holds "Commit abc1234; driver 580.1" record.md
holds "| tests | passed |" record.md
holds "13 passed" record.md
holds "| 64x4096 bf16 | 12.2 (0.07) |" record.md
lacks memcheck record.md
[ "$(grep -o '"part": "[a-z]*"' "$work/out/summary.json" | tr -d '\n')" = '"part": "passes""part": "tests"' ] ||
    fail "parts are not those asked for, in their order"
tar -tzf "$work/out/raw.tar.gz" | grep -q raw/tests.log || fail "raw.tar.gz lacks the log of the tests"

# By default tests, passes and peers, the last of which needs PyTorch.
run 1
holds "| tests | passed |" record.md
holds "| passes | passed |" record.md
holds "no PyTorch that sees the GPU" record.md
lacks racecheck record.md

# What fails and what is not in the bundle is told apart.
run 1 memcheck train
holds "| memcheck | failed |" record.md
holds "ERROR SUMMARY: 3 errors" record.md
holds "not in this bundle" record.md

# A part that outlasts its limit is stopped, and the next one has its turn.
stand_in "$bundle/differential" 'sleep 60'
run 1 tests=1 passes
holds "| tests | timed out |" record.md
holds "| passes | passed |" record.md

# A training run passes where it ends at the CPU's accuracy, or next to it.
cp "$scripts/gpu-train.sh" "$bundle/train.sh"
mkdir "$bundle/cpu"
echo "dpo,held-out,80,0.6,0.1,-0.1,0.2,0.75,0.6" >"$bundle/cpu/metrics.csv"
stand_in "$bundle/candle-cuda" 'echo "test result: ok. 3 passed"'
trained() { # held-out accuracy at the last step
    stand_in "$bundle/dpo-train" 'while [ "$1" != --out ]; do shift; done' 'mkdir -p "$2"' \
        "printf 'dpo,held-out,0,0.7,0,0,0,0.5,0.6\ndpo,held-out,80,0.6,0.1,-0.1,0.2,$1,0.6\n' >\"\$2/metrics.csv\""
}
trained 0.7675
run 0 train
holds "Held-out reward accuracy 0.7675" record.md
trained 0.5
run 1 train
holds "| train | failed |" record.md
holds "error: the accuracy on the GPU is not the CPU's" record.md

# A wrong word runs nothing.
for wrong in test tests= tests=0 tests=1s; do
    run 2 "$wrong"
    [ ! -e "$work/out" ] || fail "results of $wrong"
done
echo "gpu-run.sh, gpu-train.sh: ok"
