"""Clocks, memory and the bounds, on the CPU and on a GPU."""

import ctypes
import functools
import gc
import itertools
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import torch


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(work):
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


# Some 2 ms of a GPU's time: longer than the host takes to issue both passes, which the GPU then finds in its queue.
HEAD_START_CYCLES = 4_000_000


def device_milliseconds(works):
    """GPU time of each of `works`, one after the other, as in a loop whose host is ahead."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(works) + 1)]
    torch.cuda._sleep(HEAD_START_CYCLES)
    events[0].record()
    for work, event in zip(works, events[1:]):
        work()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in itertools.pairwise(events)]


def wake(contestant):
    """Runs the forward pass, untimed, for 20 ms at the least.

    An OpenMP worker spins for some milliseconds after its work is done, so that whoever comes next on the CPU has a
    core less; and threads that have slept are woken on the same core, and moved to another only milliseconds later.
    Both are over after this: every contestant is timed as in a loop of its own, which is how a trainer runs it.
    """
    end = time.perf_counter() + 20e-3
    while True:
        contestant.forward()
        contestant.release()
        if time.perf_counter() > end:
            return


def faulted_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize()


def timed(device, contestant):
    """(forward_ms, backward_ms, faulted_bytes) of one run."""
    contestant.prepare()
    works = (contestant.forward, contestant.backward)
    if device == "cpu":
        wake(contestant)
    before = faulted_bytes()
    passes = device_milliseconds(works) if device == "cuda" else [milliseconds(work) for work in works]
    faulted = faulted_bytes() - before
    contestant.release()
    return *passes, faulted


def alternate(device, contestants, rounds, own_heaps):
    """Name -> medians of forward_ms, backward_ms and faulted_bytes. Each round runs all, each starting one later.

    With `own_heaps` each runs in a thread of its own, and so in a heap of its own: free blocks that another left in a
    heap they share would spare a contestant page faults that it has by itself.
    """
    names = list(contestants)
    threads = {name: ThreadPoolExecutor(1) for name in names}
    runs = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            work = functools.partial(timed, device, contestants[name])
            runs[name].append(threads[name].submit(work).result() if own_heaps else work())
    figures = ("forward_ms", "backward_ms", "faulted_bytes")
    return {name: dict(zip(figures, map(statistics.median, zip(*its_runs)))) for name, its_runs in runs.items()}


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


class MemoryBound:
    """What no contestant can be faster than, timed among them: forward reads S, backward reads S and writes S."""

    def __init__(self, device, logits, threads, library):
        self.device, self.library = device, library
        self.logits, self.out = logits, torch.empty_like(logits)
        if device == "cpu":
            library.memory_bound_read.restype = ctypes.c_uint64
            words = logits.numel() * logits.element_size() // 8
            bounds = [words * i // threads // 2 * 2 for i in range(threads)] + [words]
            self.parts = list(zip(bounds, bounds[1:]))
            self.pool = ThreadPoolExecutor(threads)

    def prepare(self):
        pass

    release = prepare

    def forward(self):
        if self.device == "cuda":
            # No reader of PyTorch's reaches the bandwidth that its copy does: half a copy moves S bytes too.
            half = self.logits.shape[0] // 2
            self.out[:half].copy_(self.logits[:half])
        else:
            list(self.pool.map(self._read, self.parts))

    def backward(self):
        if self.device == "cuda":
            self.out.copy_(self.logits)
        else:
            list(self.pool.map(self._copy, self.parts))

    def _read(self, part):
        first, end = part
        self.library.memory_bound_read(ctypes.c_void_p(self.logits.data_ptr() + 8 * first), ctypes.c_size_t(end - first))

    def _copy(self, part):
        first, end = part
        to, start = (ctypes.c_void_p(tensor.data_ptr() + 8 * first) for tensor in (self.out, self.logits))
        self.library.memory_bound_copy(to, start, ctypes.c_size_t(end - first))
