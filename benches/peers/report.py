"""A result of bench.py as tables and as a chart."""

import itertools

OURS = "dpo-kernels"


def places(rows, *keys):
    """The distinct values of `keys`, in the order in which they come, each with its rows."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found.items()


def bound_of(result, row):
    keys = ("shape", "dtype", "threads")
    return next(f["total_ms"] for f in result["bounds"] if all(f[key] == row[key] for key in keys))


def heading(ignored, pages):
    scored = "all rows" if ignored == "none" else "half ignored"
    return f"pages {pages}, {scored}" if pages else scored


def tables(result):
    """Markdown: what was measured where, its tables, and what was not measured."""
    lines = [", ".join(f"{key} {value}" for key, value in result["machine"].items()), ""]
    # On the CPU each row has a number of threads.
    lines += cpu_tables(result) if result["rows"][0]["threads"] else gpu_tables(result)
    for missing in result["not_measured"]:
        lines.append(f"Not measured: {missing['variant']}, which {missing['why']}.")
    return "\n".join(lines) + "\n"


def gpu_tables(result):
    """A table for each shape, fastest first; the bound is what the device's copy takes for as many bytes."""
    lines = []
    for (shape, dtype), rows in places(result["rows"], "shape", "dtype"):
        bound = bound_of(result, rows[0])
        ours = next(row["total_ms"] for row in rows if row["variant"] == OURS)
        lines += [
            f"**{shape} {dtype}**: the copy takes {bound:.3f} ms for what forward and backward must move.",
            "",
            "| variant | ms | × ours | × the copy | forward ms | backward ms | extra MiB | log-prob error |",
            "|---|" + "---:|" * 7,
        ]
        for row in sorted(rows, key=lambda row: row["total_ms"]):
            total = row["total_ms"]
            figures = [f"{total:.3f}", f"{total / ours:.2f}", f"{total / bound:.2f}"]
            figures += [f"{row['forward_ms']:.3f}", f"{row['backward_ms']:.3f}"]
            figures += [f"{row['peak_extra_bytes'] / 2**20:.1f}", f"{row['logps_max_error']:.1e}"]
            lines.append(" | ".join([f"| {row['variant']}", *figures]) + " |")
        lines.append("")
    return lines


def cpu_tables(result):
    """A table for each shape, dtype and number of threads, fastest first.

    A cell is forward + backward in milliseconds and, in brackets, how many times as long as ours that is.
    """
    lines = []
    for (shape, dtype, threads), rows in places(result["rows"], "shape", "dtype", "threads"):
        bound = bound_of(result, rows[0])
        columns = [column for column, _ in places(rows, "ignored", "pages")]
        total = {(row["variant"], row["ignored"], row["pages"]): row["total_ms"] for row in rows}
        variants = sorted(places(rows, "variant"), key=lambda entry: total[entry[0] + columns[0]])
        on = f", {threads} thread{'s'[: threads > 1]}"
        lines += [
            f"**{shape} {dtype}{on}**: the memory bound with all rows scored is {bound:.1f} ms.",
            "",
            "| variant | " + " | ".join(heading(*column) for column in columns) + " | extra MiB | log-prob error |",
            "|---|" + "---:|" * (len(columns) + 2),
        ]
        for (variant,), its_rows in variants:
            cells = [
                f"{total[variant, *column]:.1f} ({total[variant, *column] / total[OURS, *column]:.2f})"
                for column in columns
            ]
            extra = max(row["peak_extra_bytes"] for row in its_rows) / 2**20
            error = max(row["logps_max_error"] for row in its_rows)
            lines.append(f"| {variant} | " + " | ".join(cells) + f" | {extra:.1f} | {error:.1e} |")
        lines.append("")
    return lines


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
        bound = bound_of(result, rows[0])
        axis.axvline(bound, color="black", linestyle=":", label=f"memory bound, {bound:.1f} ms")
        axis.set(yticks=range(len(names)), xlabel="forward + backward, ms", title=f"{shape} {dtype}")
        axis.set_yticklabels(names, size=8)
        axis.margins(x=0.12)
        axis.legend(loc="upper right", fontsize=8)
    threads = f", {most} threads" if most else ""
    figure.suptitle(f"{result['machine']['device']}{threads}, all rows scored")
    figure.savefig(path, dpi=110)
