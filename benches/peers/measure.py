"""Clocks, memory and the floors, on the CPU and on a GPU."""

import ctypes
import gc
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(device, work):
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def wake(device, contestant):
    """Runs the forward pass, untimed, for 20 ms at the least.

    An OpenMP worker spins for some milliseconds after its work is done, so that whoever comes next on the CPU has a core
    less; and threads that have slept are woken on the same core, and moved to another only milliseconds later. Both are
    over after this: every contestant is timed as in a loop of its own, which is how a trainer runs it.
    """
    end = time.perf_counter() + 20e-3
    while True:
        contestant.forward()
        contestant.release()
        synchronize(device)
        if time.perf_counter() > end:
            return


def alternate(device, contestants, rounds):
    """Name -> medians of (forward, backward) in milliseconds. Each round runs all, each starting one later."""
    names = list(contestants)
    times = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            contestant = contestants[name]
            contestant.prepare()
            wake(device, contestant)
            times[name].append(
                (milliseconds(device, contestant.forward), milliseconds(device, contestant.backward))
            )
            contestant.release()
    return {name: [statistics.median(passes) for passes in zip(*runs)] for name, runs in times.items()}


def _status(field):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_extra_bytes(device, contestant):
    """The most that one run holds beyond what it was given: logits, labels, and outputs of a number per row."""
    contestant.forget()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # What the allocator keeps goes back to the system, so that it counts when it is used again.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # the high-water mark starts anew
        before = _status("VmRSS:")
    contestant.prepare()
    contestant.forward()
    contestant.backward()
    synchronize(device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM:")
    contestant.release()
    return max(0, peak - before)


def floors(device, logits, threads, library, rounds):
    """Medians in milliseconds of (reading S, reading S and writing S)."""
    if device == "cuda":
        # No reader of PyTorch's reaches the bandwidth that its copy does, so half the copy stands for the read.
        out = torch.empty_like(logits)
        copies = [milliseconds(device, lambda: out.copy_(logits)) for _ in range(rounds + 1)][1:]
        return statistics.median(copies) / 2, statistics.median(copies)
    out = torch.empty_like(logits)
    words = logits.numel() * logits.element_size() // 8
    library.floor_read.restype = ctypes.c_uint64
    bounds = [words * i // threads // 2 * 2 for i in range(threads)] + [words]
    parts = list(zip(bounds, bounds[1:]))
    start, to = logits.data_ptr(), out.data_ptr()

    def read(part):
        library.floor_read(ctypes.c_void_p(start + 8 * part[0]), ctypes.c_size_t(part[1] - part[0]))

    def copy(part):
        offset = 8 * part[0]
        size = ctypes.c_size_t(part[1] - part[0])
        library.floor_copy(ctypes.c_void_p(to + offset), ctypes.c_void_p(start + offset), size)

    with ThreadPoolExecutor(threads) as pool:

        def median(work):
            runs = [milliseconds(device, lambda: list(pool.map(work, parts))) for _ in range(rounds + 1)]
            return statistics.median(runs[1:])

        return median(read), median(copy)
