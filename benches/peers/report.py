"""A result of bench.py as tables and as a chart."""

import itertools

OURS = "dpo-kernels"


def places(rows, *keys):
    """The distinct values of `keys`, in the order in which they come, each with its rows."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found.items()


def floor_of(result, row):
    keys = ("shape", "dtype", "threads")
    return next(f["total_ms"] for f in result["floors"] if all(f[key] == row[key] for key in keys))


def title(shape, dtype, ignored, threads, pages):
    parts = [f"{shape} {dtype}", "all rows scored" if ignored == "none" else "half the rows ignored"]
    if threads is not None:
        parts += [f"{threads} thread{'s'[: threads > 1]}", f"pages {pages}"]
    return ", ".join(parts)


def tables(result):
    """Markdown: what was measured where, and a table for each place, fastest first."""
    machine = result["machine"]
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    for place, rows in places(result["rows"], "shape", "dtype", "ignored", "threads", "pages"):
        ours = next(row["total_ms"] for row in rows if row["variant"] == OURS)
        floor = floor_of(result, rows[0])
        lines += [
            f"**{title(*place)}** (floor with all rows scored: {floor:.1f} ms)",
            "",
            "| variant | forward ms | backward ms | total ms | ÷ ours | ÷ floor | extra MiB | log-prob error |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in sorted(rows, key=lambda row: row["total_ms"]):
            lines.append(
                f"| {row['variant']} | {row['forward_ms']:.1f} | {row['backward_ms']:.1f} | {row['total_ms']:.1f} "
                f"| {row['total_ms'] / ours:.2f} | {row['total_ms'] / floor:.2f} "
                f"| {row['peak_extra_bytes'] / 2**20:.1f} | {row['logps_max_error']:.1e} |"
            )
        lines.append("")
    for missing in result["not_measured"]:
        lines.append(f"Not measured: {missing['variant']}, which {missing['why']}.")
    return "\n".join(lines) + "\n"


def chart(result, path):
    """Total times with all rows scored and the most threads: a panel per shape and dtype, a bar per page mode."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    most = max(row["threads"] or 0 for row in result["rows"]) or None
    rows = [row for row in result["rows"] if row["threads"] == most and row["ignored"] == "none"]
    panels = places(rows, "shape", "dtype")
    figure, axes = plt.subplots(len(panels), 1, figsize=(10, 3.6 * len(panels)), layout="constrained", squeeze=False)
    for axis, ((shape, dtype), rows) in zip(axes.flat, panels):
        names = [name for (name,), _ in places(sorted(rows, key=lambda row: -row["total_ms"]), "variant")]
        modes = [pages for (pages,), _ in places(rows, "pages")]
        for mode, (pages, colors) in enumerate(zip(modes, itertools.cycle((("C0", "C1"), ("C9", "C3"))))):
            times = {row["variant"]: row["total_ms"] for row in rows if row["pages"] == pages}
            at = [place + 0.4 * (mode - (len(modes) - 1) / 2) for place in range(len(names))]
            color = [colors[name.startswith(OURS)] for name in names]
            axis.barh(at, [times[name] for name in names], height=0.38, color=color)
            for y, name in zip(at, names):
                axis.text(times[name], y, f" {times[name]:.0f}" + (f" {pages}" if pages else ""), va="center", size=7)
        floor = floor_of(result, rows[0])
        axis.axvline(floor, color="black", linestyle=":", label=f"memory floor, {floor:.1f} ms")
        axis.set(yticks=range(len(names)), xlabel="forward + backward, ms", title=f"{shape} {dtype}")
        axis.set_yticklabels(names, size=8)
        axis.margins(x=0.12)
        axis.legend(loc="lower right", fontsize=8)
    threads = f", {most} threads" if most else ""
    figure.suptitle(f"{result['machine']['device']}{threads}, all rows scored")
    figure.savefig(path, dpi=110)
