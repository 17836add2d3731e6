"""dpo-kernels beside what a user would pick instead: the same tensors, one process, alternating runs, medians.

    python bench.py --library libdpo_kernels_c.so --memory-bound libmemory_bound.so --out FOLDER [--device cpu|cuda] [--quick]

writes NAME.json, NAME.md (tables) and NAME.png (a chart) to FOLDER, NAME being cpu or cuda, or cpu-quick. On the CPU
every number of threads and every page mode is a process of its own, because both are settled when a process starts. On a
GPU it ends within a minute, and shapes that there is no time for are named. Stops with an error if anything else that it
sets out to measure is not measured. See README.md for what is compared and how.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

SEQUENCE_LEN = 64
SHAPES = {"1024x32000": (1024, 32000), "256x128256": (256, 128256)}
QUICK_SHAPES = {"128x1000": (128, 1000)}
DTYPES = ("f32", "bf16")
THREADS = (1, 2)
IGNORED = ("none", "half")
# On a GPU, where a minute is what there is.
CUDA_SHAPES = {
    "8192x128256": (8192, 128256), "8192x151936": (8192, 151936), "4096x50257": (4096, 50257), "4096x32000": (4096, 32000),
}  # fmt: skip
CUDA_SECONDS = 60
# What a shape takes at the most, with what Triton compiles for it.
CUDA_SHAPE_SECONDS = 12
# glibc gives big blocks back to the system when they are freed, and faults them in again, page by page, when the next
# is made; this keeps them.
PAGES = {
    "fresh": {},
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28)},
}
NOT_MEASURED = {
    "liger fused-linear DPO": "takes hidden states and the head's weight, not logits: bench_heads.py measures it, on the "
    "CPU, beside others that do",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="the shared library of integrations/c")
    parser.add_argument("--memory-bound", help="memory_bound.c as a shared library; needed on the CPU")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small shape, two rounds, nothing compiled")
    parser.add_argument("--process", nargs=2, metavar=("THREADS", "PAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 2 if options.quick else options.rounds
    on_gpu = options.device == "cuda"
    options.shapes = QUICK_SHAPES if options.quick else CUDA_SHAPES if on_gpu else SHAPES
    options.dtypes = ("bf16",) if on_gpu else DTYPES
    options.ignored = ("none",) if on_gpu else IGNORED
    options.name = f"{options.device}-quick" if options.quick else options.device
    return options


def tensors(rows, vocab, dtype, device):
    """Logits [S, T, V], labels [S, T] and f64 token log-probs [S, T], the same every time."""
    import torch

    generator = torch.Generator(device).manual_seed(1)
    shape = (rows // SEQUENCE_LEN, SEQUENCE_LEN)
    logits = torch.empty((*shape, vocab), dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], device=device)
    # One sequence at a time, here and below: all of them in f32 or f64 would be gigabytes.
    for sequence in logits:
        sequence.copy_(torch.randn(sequence.shape, generator=generator, device=device) * 3)
    labels = torch.randint(vocab, shape, generator=generator, device=device)
    tokens = [z.double().log_softmax(-1).gather(-1, y[:, None])[:, 0] for z, y in zip(logits, labels)]
    return logits, labels, torch.stack(tokens)


def compiled(options, shape):
    """Whether torch.compile's ways are measured too. Compiling takes longer than all the rest on a GPU: one shape of it."""
    return not options.quick and (options.device == "cpu" or shape == next(iter(CUDA_SHAPES)))


def gradient_error(contestant, logits, labels, exact, ref_logps, beta):
    """How far one row of the gradient is from f64, as a share of its largest element."""
    import torch

    chosen, rejected = (beta * (exact - ref_logps.double())).chunk(2)
    coef = -beta * torch.sigmoid(rejected - chosen)[0] / len(chosen)
    expected = -coef * logits[0, 1].double().softmax(-1)
    expected[labels[0, 1]] += coef
    return ((contestant.gradient()[0, 1].double() - expected).abs().max() / expected.abs().max()).item()


def measure(options, threads, pages):
    """All rows and bounds of one process, and the shapes that there was no time for."""
    import ctypes

    import torch

    import measure as clock
    import variants
    from dpo_kernels import Library

    library = Library(options.library)
    bound_library = ctypes.CDLL(options.memory_bound) if options.memory_bound else None
    if options.device == "cpu":
        torch.set_num_threads(threads)
    rows, bounds, left_out = [], [], []
    for (shape, (count, vocab)), dtype in itertools.product(options.shapes.items(), options.dtypes):
        if options.device == "cuda" and time.monotonic() - options.started > CUDA_SECONDS - CUDA_SHAPE_SECONDS:
            left_out.append(shape)
            continue
        place = {"shape": shape, "dtype": dtype, "threads": threads}
        logits, labels, tokens = tensors(count, vocab, dtype, options.device)
        for ignored in options.ignored:
            if ignored == "half":
                labels[:, ::2] = variants.IGNORE_INDEX
            exact = tokens.masked_fill(labels == variants.IGNORE_INDEX, 0).sum(-1)
            ref_logps = (exact + torch.linspace(-1, 1, len(exact), device=exact.device)).float()
            contestants = variants.contestants(library, logits, labels, ref_logps, compiled(options, shape))
            facts = {}
            for name, contestant in contestants.items():
                # The first run compiles, and answers for what the others will do.
                contestant.prepare()
                contestant.forward()
                contestant.backward()
                clock.synchronize(options.device)
                error = (contestant.logps.double() - exact).abs().max().item()
                off = gradient_error(contestant, logits, labels, exact, ref_logps, variants.BETA)
                contestant.release()
                peak = clock.peak_extra_bytes(options.device, contestant)
                errors = {"logps_max_error": error, "gradient_error": off}
                facts[name] = {"peak_extra_bytes": peak, "pages": pages, **errors}
            if ignored == "none" and pages != "fresh":
                contestants["bound"] = clock.MemoryBound(options.device, logits, threads, bound_library)
            times = clock.alternate(options.device, contestants, options.rounds, own_heaps=pages == "fresh")
            if "bound" in times:
                bound = times.pop("bound")
                read, copy = bound["forward_ms"], bound["backward_ms"]
                bounds.append({**place, "read_ms": read, "copy_ms": copy, "total_ms": read + copy})
            for name, figures in times.items():
                figures["total_ms"] = figures["forward_ms"] + figures["backward_ms"]
                rows.append({**place, "ignored": ignored, "variant": name, **figures, **facts[name]})
            del contestants, contestant
    return {"rows": rows, "bounds": bounds, "left_out": left_out}


def in_process(options, threads, pages):
    """measure(), in a process with as many threads and these pages."""
    print(f"measuring: threads {threads}, pages {pages}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--process", str(threads), pages]
    threads = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    result = subprocess.run(command, env={**os.environ, **threads, **PAGES[pages]}, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def machine(options):
    """What the figures depend on and do not show."""
    import torch

    commit = "unknown"  # in a bundle
    if shutil.which("git"):
        describe = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
        here = Path(__file__).parent
        commit = subprocess.run(describe, cwd=here, capture_output=True, text=True).stdout.strip() or commit
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else cpu_name(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load_before": round(os.getloadavg()[0], 2),
        "pytorch": torch.__version__,
        "python": platform.python_version(),
        "rounds": options.rounds,
        "sequence_len": SEQUENCE_LEN,
    }


def cpu_name():
    with open("/proc/cpuinfo") as cpus:
        return next(line.split(":")[1].strip() for line in cpus if line.startswith("model name"))


def check_complete(options, result):
    """Everything that was to be measured is there, as a number, and is the right computation."""
    import torch

    from variants import OURS, peers

    processes = list(itertools.product(THREADS, PAGES)) if options.device == "cpu" else [(None, None)]
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    missing = {missing["variant"] for missing in result["not_measured"]}
    shapes = [shape for shape in options.shapes if shape not in missing]
    expected = {
        (shape, dtype, threads, ignored, pages, variant)
        for (threads, pages), shape, dtype, ignored in itertools.product(
            processes, shapes, options.dtypes, options.ignored
        )
        for variant in [*OURS[options.device], *peers(options.device, dtypes[dtype], compiled(options, shape))]
    }
    keys = ("shape", "dtype", "threads", "ignored", "pages", "variant")
    found = {tuple(row[key] for key in keys) for row in result["rows"]}
    if found != expected:
        raise RuntimeError(f"not measured: {sorted(expected - found)}; not asked for: {sorted(found - expected)}")
    bounds = {(bound["shape"], bound["dtype"], bound["threads"]) for bound in result["bounds"]}
    missing = {key[:3] for key in expected} - bounds
    if missing:
        raise RuntimeError(f"bounds not measured: {sorted(missing)}")
    for row in result["rows"] + result["bounds"]:
        # Straight bf16 is off by units in a log-prob, and its coefficients with it; that is listed, not excused. Liger's
        # losses have the logits' type too.
        direct = any(word in row.get("variant", "") for word in ("direct", "liger"))
        bounds = {"logps_max_error": 100 if direct else 0.1, "gradient_error": 1 if direct else 0.05}
        for key, value in row.items():
            if key.endswith("_ms") and not value > 0 or key in bounds and not value < bounds[key]:
                raise RuntimeError(f"{key} is {value} in {row}")


def main():
    options = arguments()
    options.started = time.monotonic()
    if options.process:
        threads, pages = options.process
        # What else writes to standard output (compilers, warnings) must not end up in the result.
        result, sys.stdout = sys.stdout, sys.stderr
        json.dump(measure(options, int(threads), pages), result)
        return
    about = machine(options)
    if about["load_before"] > 0.5:
        print(f"warning: something else keeps this machine busy (load {about['load_before']})", file=sys.stderr)
    if options.device == "cuda":
        print(f"{len(options.shapes)} shapes, at most {CUDA_SECONDS} s", file=sys.stderr, flush=True)
        parts = [measure(options, None, None)]
    else:
        parts = [in_process(options, threads, pages) for threads, pages in itertools.product(THREADS, PAGES)]
    result = {
        "machine": about,
        "rows": [row for part in parts for row in part["rows"]],
        "bounds": [bound for part in parts for bound in part["bounds"]],
        "not_measured": [{"variant": variant, "why": why} for variant, why in NOT_MEASURED.items()],
    }
    for shape in (shape for part in parts for shape in part["left_out"]):
        result["not_measured"].append({"variant": shape, "why": f"did not fit into {CUDA_SECONDS} s"})
    check_complete(options, result)

    import report

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    tables = report.tables(result)
    (options.out / f"{options.name}.md").write_text(tables)
    if importlib.util.find_spec("matplotlib"):
        report.chart(result, options.out / f"{options.name}.png")
    else:
        print("no chart: matplotlib is not installed", file=sys.stderr)
    print(tables)


if __name__ == "__main__":
    main()
