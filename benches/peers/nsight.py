"""A few launches of each kernel under Nsight Compute, and its figures as a table.

    python nsight.py --library libdpo_kernels_c.so --out FOLDER

writes profile.md and profile.csv (what ncu said) to FOLDER. The GPU's clocks are left as they are.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

# Few rows, since ncu runs a kernel once for each group of figures, and restores the memory in between.
LAUNCHES = [
    (2048, 128256, "forward"), (2048, 128256, "entropies"), (2048, 128256, "backward"), (2048, 128256, "factored"),
    (4096, 50257, "forward"), (4096, 50257, "entropies"), (4096, 50257, "backward"), (4096, 50257, "factored"),
    (16384, 4096, "forward"), (16384, 4096, "factored"), (64, 4096, "forward"), (1024, 32000, "forward"),
    (1024, 32000, "factored"), (1024, 262144, "factored"),
]  # fmt: skip
SEQUENCE_LEN = 32
MICROSECONDS = "gpu__time_duration.sum"
INSTRUCTIONS = "smsp__inst_executed.sum"
# Column of the table -> metric, taken as it is.
METRICS = {
    "DRAM %": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "issue slots busy %": "sm__inst_issued.avg.pct_of_peak_sustained_active",
    "occupancy %": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}


def launch(library):
    """All of LAUNCHES, in order; nothing else of ours is launched, so that the order tells them apart."""
    import torch

    from dpo_kernels import Library, Pass

    library = Library(library)
    for rows, vocab, what in LAUNCHES:
        shape = (rows // SEQUENCE_LEN, SEQUENCE_LEN)
        logits = torch.empty((*shape, vocab), dtype=torch.bfloat16, device="cuda").normal_(std=3)
        labels = torch.randint(vocab, shape, device="cuda")
        ref_logps = torch.zeros(shape[0], device="cuda")
        kernels, gradient = Pass(library, logits, labels, 0.1), torch.empty_like(logits)
        # In place of a forward pass before backward, which does not read rows whose coefficient is 0.
        kernels.coef.fill_(0.01)
        kernels.logsumexp.fill_(16)
        {
            "forward": lambda: kernels.forward(logits, ref_logps),
            "entropies": lambda: kernels.entropies(logits),
            "backward": lambda: kernels.backward(logits, gradient),
            "factored": lambda: kernels.factored(logits, ref_logps, gradient),
        }[what]()
        torch.cuda.synchronize()


def profiled(library):
    """What ncu says of the launches, as CSV."""
    metrics = ",".join([MICROSECONDS, INSTRUCTIONS, *METRICS.values()])
    ncu = ["ncu", "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none"]
    ncu += ["--kernel-name", "regex:^dpo_", "--metrics", metrics]
    command = [*ncu, sys.executable, __file__, "--library", library, "--launch"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def table(text):
    """Markdown of ncu's CSV, which comes after lines of its own and has a row of units below its header."""
    lines = text.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith('"ID"'))
    rows = list(csv.DictReader(lines[header:]))[1:]
    if len(rows) != len(LAUNCHES):
        raise RuntimeError(f"expected {len(LAUNCHES)} launches in ncu's output, found {len(rows)}")

    def number(row, metric):
        return float(row[metric].replace(",", ""))

    columns = ["kernel", "rows × vocabulary", "grid × block", "µs", "instructions / element", *METRICS]
    found = ["| " + " | ".join(columns) + " |", "|---|---|---|" + "---:|" * (len(columns) - 3)]
    for row, (count, vocab, _) in zip(rows, LAUNCHES):
        threads = 32 * number(row, INSTRUCTIONS) / (count * vocab)
        cells = [row["Kernel Name"], f"{count} × {vocab}", f"{row['Grid Size']} × {row['Block Size']}"]
        cells += [f"{number(row, MICROSECONDS) / 1e3:.1f}", f"{threads:.1f}"]
        cells += [f"{number(row, metric):.0f}" for metric in METRICS.values()]
        found.append("| " + " | ".join(cells) + " |")
    return "\n".join(found) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="the shared library of integrations/c")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--launch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launch:
        launch(options.library)
        return
    text = profiled(options.library)
    (options.out / "profile.csv").write_text(text)
    (options.out / "profile.md").write_text(table(text))


if __name__ == "__main__":
    main()
