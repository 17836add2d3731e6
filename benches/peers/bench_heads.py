"""From hidden states, on the CPU: dpo-kernels beside the heads of TRL and Liger, in the way of bench.py.

    python bench_heads.py --library libdpo_kernels_c.so --out FOLDER [--quick]

writes heads.json and heads.md to FOLDER, or heads-quick.*. Each page mode is a process of its own. See README.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

from bench import DTYPES, IGNORED, PAGES, SEQUENCE_LEN, machine

THREADS = 2
# Rows, hidden size, vocabulary.
SHAPES = {"1024x512x32000": (1024, 512, 32000)}
QUICK_SHAPES = {"256x64x1000": (256, 64, 1000)}
WEIGHTS = ("trained", "frozen")
# Logits of bf16 are off by units in a sum of log-probs, and the coefficients with them; that is listed, not excused. Those of
# f32 are products of f32, and so are ours of bf16.
LOGPS_ERROR, GRADIENT_ERROR = {True: 0.1, False: 100}, {True: 0.05, False: 1}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="the shared library of integrations/c")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small shape, two rounds, nothing compiled")
    parser.add_argument("--process", metavar="PAGES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 2 if options.quick else options.rounds
    options.shapes = QUICK_SHAPES if options.quick else SHAPES
    options.device = "cpu"
    return options


def tensors(rows, hidden_size, vocab, dtype):
    """Hidden states [S, T, H], a weight [V, H] that makes logits of a deviation of 3, and labels, the same every time."""
    import torch

    generator = torch.Generator().manual_seed(1)
    of_type = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    shape = (rows // SEQUENCE_LEN, SEQUENCE_LEN)
    hidden = torch.randn((*shape, hidden_size), generator=generator).to(of_type)
    weight = (torch.randn((vocab, hidden_size), generator=generator) * 3 / hidden_size**0.5).to(of_type)
    return hidden, weight, torch.randint(vocab, shape, generator=generator)


class Exact:
    """The truth in f64: log-probs, one row of dX, and one of dW, that of a label."""

    def __init__(self, hidden, weight, labels):
        import torch

        import heads

        self.row = (0, 1)
        self.column = labels[self.row].item()
        wide, scored = weight.double(), labels != heads.IGNORE_INDEX
        logps, of_column = [], []
        # One sequence at a time: the logits of all would be gigabytes.
        for x, y in zip(hidden, labels):
            tokens = (x.double() @ wide.t()).log_softmax(-1)
            logps.append(tokens.gather(-1, y.clamp(min=0)[:, None])[:, 0])
            of_column.append(tokens[:, self.column].exp())
        self.logps = (torch.stack(logps) * scored).sum(-1)
        chosen, rejected = self.logps.chunk(2)
        coef = -heads.BETA * torch.sigmoid(heads.BETA * (rejected - chosen)) / len(chosen)
        coef = torch.cat([coef, -coef])
        at = hidden[self.row].double() @ wide.t()
        self.hidden = coef[0] * (wide[labels[self.row]] - at.softmax(-1) @ wide)
        gradient = coef[:, None] * ((labels == self.column).double() - torch.stack(of_column)) * scored
        self.weight = (gradient[..., None] * hidden.double()).sum((0, 1))

    def errors(self, contestant):
        """How far log-probs are off, in nats, and gradients, as a share of the largest element of their row."""
        hidden, weight = contestant.gradients()
        pairs = [(hidden[self.row], self.hidden)] + ([] if weight is None else [(weight[self.column], self.weight)])
        off = [((found.double() - right).abs().max() / right.abs().max()).item() for found, right in pairs]
        return {
            "logps_max_error": (contestant.logps.double() - self.logps).abs().max().item(),
            "gradient_error": max(off),
        }


def measure(options, pages):
    """All rows of one process."""
    import torch

    import heads
    import measure as clock
    from dpo_kernels import Library

    library = Library(options.library)
    torch.set_num_threads(THREADS)
    rows = []
    for (shape, sizes), dtype, ignored in itertools.product(options.shapes.items(), DTYPES, IGNORED):
        hidden, weight, labels = tensors(*sizes, dtype)
        if ignored == "half":
            labels[:, ::2] = heads.IGNORE_INDEX
        exact = Exact(hidden, weight, labels)
        for of_weight in WEIGHTS:
            contestants = heads.contestants(
                library, hidden, weight, labels, of_weight == "frozen", not options.quick
            )
            facts = {}
            for name, contestant in contestants.items():
                contestant.prepare()
                contestant.forward()
                contestant.backward()
                errors = exact.errors(contestant)
                contestant.release()
                facts[name] = {"peak_extra_bytes": clock.peak_extra_bytes("cpu", contestant), "pages": pages, **errors}
            times = clock.alternate("cpu", contestants, options.rounds, own_heaps=pages == "fresh")
            place = {"shape": shape, "dtype": dtype, "threads": THREADS, "ignored": ignored, "weight": of_weight}
            for name, figures in times.items():
                total = figures["forward_ms"] + figures["backward_ms"]
                rows.append({**place, "variant": name, **figures, "total_ms": total, **facts[name]})
    return rows


def in_process(options, pages):
    """measure(), in a process with these pages."""
    print(f"measuring heads: pages {pages}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--process", pages]
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    result = subprocess.run(command, env={**os.environ, **threads, **PAGES[pages]}, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout)


def check_complete(options, rows):
    """Everything that was to be measured is there, as a number, and is the right computation."""
    from heads import OURS, peers

    keys = ("shape", "dtype", "ignored", "weight", "pages", "variant")
    variants = [OURS, *peers(not options.quick)]
    expected = set(itertools.product(options.shapes, DTYPES, IGNORED, WEIGHTS, PAGES, variants))
    found = {tuple(row[key] for key in keys) for row in rows}
    if found != expected:
        raise RuntimeError(f"not measured: {sorted(expected - found)}; not asked for: {sorted(found - expected)}")
    for row in rows:
        precise = row["dtype"] == "f32" or row["variant"] == OURS
        bounds = {"logps_max_error": LOGPS_ERROR[precise], "gradient_error": GRADIENT_ERROR[precise]}
        if not row["total_ms"] > 0 or any(not row[key] < bound for key, bound in bounds.items()):
            raise RuntimeError(f"not as it should be: {row}")


def tables(result):
    """Markdown: a table for each shape, dtype and weight, fastest first; in brackets how many times as long as ours."""
    from heads import OURS
    from report import heading, places

    lines = [", ".join(f"{key} {value}" for key, value in result["machine"].items()), ""]
    for (shape, dtype, weight), rows in places(result["rows"], "shape", "dtype", "weight"):
        columns = [column for column, _ in places(rows, "ignored", "pages")]
        total = {(row["variant"], row["ignored"], row["pages"]): row["total_ms"] for row in rows}
        lines += [
            f"**{shape} {dtype}, {weight} weight**, {THREADS} threads, ms:",
            "",
            "| variant | " + " | ".join(heading(*column) for column in columns) + " | extra MiB | log-prob error | gradient error |",
            "|---|" + "---:|" * (len(columns) + 3),
        ]
        for (variant,), its_rows in sorted(places(rows, "variant"), key=lambda entry: total[entry[0] + columns[0]]):
            cells = [
                f"{total[variant, *column]:.1f} ({total[variant, *column] / total[OURS, *column]:.2f})"
                for column in columns
            ]
            extra = max(row["peak_extra_bytes"] for row in its_rows) / 2**20
            errors = [max(row[key] for row in its_rows) for key in ("logps_max_error", "gradient_error")]
            cells += [f"{extra:.1f}", *(f"{error:.1e}" for error in errors)]
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main():
    options = arguments()
    if options.process:
        # What else writes to standard output (compilers, warnings) must not end up in the result.
        result, sys.stdout = sys.stdout, sys.stderr
        json.dump(measure(options, options.process), result)
        return
    about = machine(options)
    rows = [row for pages in PAGES for row in in_process(options, pages)]
    check_complete(options, rows)
    result = {"machine": about, "rows": rows}
    name = "heads-quick" if options.quick else "heads"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(tables(result))
    print(tables(result))


if __name__ == "__main__":
    main()
