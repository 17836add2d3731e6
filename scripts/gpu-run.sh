#!/bin/sh
# Runs parts of this bundle on a Linux machine with an NVIDIA driver, each within a limit, and records what they say.
# Usage: ./run.sh RESULTS_FOLDER [PART[=SECONDS]...]
#
#   part        takes  limit
#   tests        60 s   90 s  the differential suite and the GPU's own tests
#   passes       20 s  100 s  every pass beside the device's copy, and the host's time for a launch
#   peers        60 s   90 s  what else people run on a GPU; needs PyTorch
#   torch        30 s   90 s  the PyTorch package on the GPU beside itself on the CPU; needs PyTorch 2.6
#   memcheck     30 s   60 s  the reduced suite under compute-sanitizer
#   racecheck   115 s  150 s  the same for races in shared memory
#   profile      60 s   90 s  a few launches under Nsight Compute; needs PyTorch
#   train        90 s  120 s  a training run that must end where the CPU's did, and candle's tests (in a bundle of its own)
#
# Without parts: tests, passes and peers. Results: record.md, to be pasted into benches/RESULTS.md; summary.json; raw.tar.gz,
# the logs and figures. They are written anew after each part, so that a run that is cut off leaves what it had. Exit status
# 1 unless every part passed.
set -u

known="tests passes peers torch memcheck racecheck profile train"
usage() {
    echo "usage: $0 RESULTS_FOLDER [PART[=SECONDS]...], a PART being one of $known" >&2
    exit 2
}
limit_of() {
    case $1 in
    tests | peers | torch | profile) echo 90 ;;
    passes) echo 100 ;;
    memcheck) echo 60 ;;
    racecheck) echo 150 ;;
    train) echo 120 ;;
    esac
}

[ $# -ge 1 ] || usage
results=$1
shift
[ $# -ge 1 ] || set -- tests passes peers
for part in "$@"; do
    case " $known " in *" ${part%%=*} "*) ;; *) usage ;; esac
    case $part in *=*[!0-9]* | *= | *=0) usage ;; esac
done

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$results"
cd "$results" || exit 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
raw=$work/raw
mkdir "$raw"
: >"$raw/parts"

# Of the first GPU. nvidia-smi says what is wrong on standard output too.
query() { answer=$(nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null) && echo "$answer" | head -n 1; }
card=$(query name)
driver=$(query driver_version)
clocks=$(query clocks.max.sm,clocks.max.mem)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
commit=$(cat "$here/commit" 2>/dev/null || echo unknown)

# Without a device the tests and benchmarks would skip themselves; here that is a failure.
export DPO_REQUIRE_GPU=1 DPO_VECTORS="$here/golden" DPO_BENCH_OUT="$raw"
library=$here/libdpo_kernels_c.so
peers=$here/peers
export PYTHONPATH="$peers/wheels:$peers" PYTHONUNBUFFERED=1

# Why a part cannot run here; empty if it can.
obstacle() {
    [ -n "$card" ] || { echo "no driver: nvidia-smi shows no GPU" && return; }
    case $1 in
    tests) needs=differential ;;
    passes) needs=cuda ;;
    peers | profile) needs=peers ;;
    torch) needs=torch ;;
    memcheck | racecheck) needs=differential ;;
    train) needs=dpo-train ;;
    esac
    [ -e "$here/$needs" ] || { echo "not in this bundle" && return; }
    case $1 in
    peers | torch | profile)
        python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null ||
            { echo "no PyTorch that sees the GPU" && return; }
        ;;
    memcheck | racecheck)
        command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on PATH" && return; }
        ;;
    esac
    [ "$1" != profile ] || command -v ncu >/dev/null || echo "ncu is not on PATH"
}

sanitize() {
    timed env DPO_REDUCED=1 compute-sanitizer --tool "$1" --error-exitcode 1 "$here/differential" gpu --nocapture
}
timed() { timeout -k 5 "$limit" "$@"; }

# A part's command. What it leaves in raw/PART.md goes into the record.
run() {
    case $1 in
    tests) timed "$here/differential" gpu --nocapture ;;
    passes) timed "$here/cuda" --bench && mv "$raw/cuda.md" "$raw/passes.md" ;;
    peers)
        timed python3 "$peers/bench.py" --device cuda --library "$library" --out "$raw/peers" &&
            mv "$raw/peers/cuda.md" "$raw/peers.md"
        ;;
    torch) (cd "$here/torch" && timed python3 -m unittest test_cuda) ;;
    memcheck | racecheck) sanitize "$1" ;;
    profile) timed python3 "$peers/nsight.py" --library "$library" --out "$raw" ;;
    train) timed "$here/train.sh" "$raw" ;;
    esac
}

# The last line by which a part sums itself up.
sum_up() { grep -hE '^OK|^FAILED|test result:|ERROR SUMMARY|RACECHECK SUMMARY|accuracy|^[Ee]rror|error while loading|panicked' "$1" 2>/dev/null | tail -n 1; }

record() {
    {
        echo "## On ${card:-no GPU}, ${date%T*}"
        echo
        echo "Commit $commit; driver ${driver:-none}; highest clocks of cores and memory ${clocks:-unknown}; $date."
        echo
        echo "| part | result | seconds | limit | it says |"
        echo "|---|---|---:|---:|---|"
        while IFS='	' read -r part result seconds limit says; do
            echo "| $part | $result | $seconds | $limit | $says |"
        done <"$raw/parts"
        while IFS='	' read -r part result _; do
            [ -s "$raw/$part.md" ] || continue
            printf '\n### %s\n\n' "$part"
            cat "$raw/$part.md"
        done <"$raw/parts"
    } >record.md
    {
        separator=[
        while IFS='	' read -r part result seconds limit says; do
            printf '%s{"part": "%s", "result": "%s", "seconds": %s}' "$separator" "$part" "$result" "$seconds"
            separator=', '
        done <"$raw/parts"
        echo ']'
    } >summary.json
    tar -czf raw.tar.gz -C "$work" raw
}

failed=0
for asked in "$@"; do
    part=${asked%%=*}
    limit=$(limit_of "$part")
    [ "$asked" = "$part" ] || limit=${asked#*=}
    start=$(date +%s)
    says=$(obstacle "$part")
    if [ -n "$says" ]; then
        result="not run"
    else
        run "$part" >"$raw/$part.log" 2>&1
        case $? in
        0) result=passed ;;
        124 | 137) result="timed out" ;;
        *) result=failed ;;
        esac
        says=$(sum_up "$raw/$part.log" | tr '\t|' '  ')
    fi
    [ "$result" = passed ] || failed=1
    seconds=$(($(date +%s) - start))
    printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$result" "$seconds" "$limit" "$says" >>"$raw/parts"
    printf '%-10s %-9s %4s s  %s\n' "$part" "$result" "$seconds" "$says"
    record
done
exit $failed
