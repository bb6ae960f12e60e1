"""Memory peaks by phase (load, train, evaluate, …): allocated on CUDA, resident on a CPU."""

import ctypes
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
KINDS = ("allocated", "reserved", "resident")  # of memory; the first two on CUDA alone

# Of glibc's mallopt: blocks from so many bytes on are the system's, and go back to it when they are freed.
MMAP_THRESHOLD = -3
RETURNED_BYTES = 128 * 1024  # glibc's own default

Peaks = dict[str, dict[str, int]]  # phase -> kind -> bytes


def return_freed_memory() -> None:
    """Have freed blocks go back to the system at once, from now on; nothing where there is no glibc.

    Else each one that is freed makes glibc keep all up to its size (32 MiB at most), so that buffers which come and go,
    as the whole layers of a split model do, stay resident.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, RETURNED_BYTES)


class HostPeak:
    """Peak resident memory of this process since `reset`, in bytes: the kernel's, or sampled where it has none."""

    def __init__(self) -> None:
        self.sampled = not Path("/proc/self/clear_refs").exists()
        self._highest = 0
        if self.sampled:
            threading.Thread(target=self._sample, daemon=True).start()

    def reset(self) -> None:
        """Start a new peak at what is resident now."""
        with suppress(AttributeError, OSError):
            # glibc keeps what was freed: without this the next phase starts at the last one's height.
            ctypes.CDLL(None).malloc_trim(0)
        if self.sampled:
            self._highest = self.resident()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes at the highest point since `reset`."""
        if self.sampled:
            return max(self._highest, self.resident())
        return _read_status("VmHWM")

    def resident(self) -> int:
        """Bytes that are resident now."""
        if not self.sampled:
            return _read_status("VmRSS")
        import psutil

        return psutil.Process().memory_info().rss

    def _sample(self) -> None:
        while True:
            self._highest = max(self._highest, self.resident())
            time.sleep(0.01)


def _read_status(name: str) -> int:
    """Bytes that the kernel tells of this process under `name`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            kibibytes = int(line.split()[1])
            return kibibytes * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PhasePeaks:
    """Peak memory by phase (load, train, evaluate, …): allocated on CUDA, resident on the CPU."""

    def __init__(self, device: torch.device, rank: int = 0):
        self.device = device
        self.rank = rank
        self.peaks: Peaks = {}  # of the phases that are over
        self.by_rank: list[Peaks] = []  # of all ranks, when they last met
        self.phase_name = ""
        self.host = HostPeak()
        self.host.reset()
        self.baseline = self.host.read()  # the interpreter and its libraries, before the model

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge to `name` what happens inside; a phase inside a phase is charged to the inner one alone."""
        outer = self.phase_name
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name: str) -> None:
        self.peaks = self.so_far()
        self.phase_name = name
        self.host.reset()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def so_far(self) -> Peaks:
        """Bytes by phase and kind, the phase that runs now included."""
        if not self.phase_name:
            return self.peaks
        highest = self._read()
        # The phase may have been left and entered again.
        for kind, size in self.peaks.get(self.phase_name, {}).items():
            highest[kind] = max(size, highest[kind])
        return {**self.peaks, self.phase_name: highest}

    def _read(self) -> dict[str, int]:
        if self.device.type != "cuda":
            return {"resident": self.host.read()}
        return {
            "allocated": torch.cuda.max_memory_allocated(self.device),
            "reserved": torch.cuda.max_memory_reserved(self.device),
            "resident": self.host.read(),
        }

    def state(self) -> list[Peaks]:
        """What a checkpoint keeps: the peaks of all ranks."""
        return self.by_rank

    def restore(self, state: list[Peaks]) -> None:
        """Go on from what `state()` gave, in as many ranks as there were."""
        self.by_rank = state
        self.peaks = state[self.rank]

    def snapshot(self) -> dict[str, float]:
        """GiB in use now and at the highest point of this phase so far, by kind: what a line of metrics.jsonl has."""
        peaks = self.so_far()
        now = {"resident": self.host.resident()}
        if self.device.type == "cuda":
            # One call for both: each of torch's own functions would make this one again.
            statistics = torch.cuda.memory_stats_as_nested_dict(self.device)
            now["allocated"] = statistics["allocated_bytes"]["all"]["current"]
            now["reserved"] = statistics["reserved_bytes"]["all"]["current"]
        sizes = {}
        for kind, size in now.items():
            sizes[f"{kind}_gib"] = to_gib(size)
            peak = peaks.get(self.phase_name, {}).get(kind)
            if peak is not None:
                sizes[f"peak_{kind}_gib"] = to_gib(peak)
        return sizes

    def current_gib(self) -> float:
        """Memory in use now, for the progress bar."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) / GIB
        return self.host.resident() / GIB

    def facts(self) -> dict:
        """The record's `memory`, all in GiB of 2^30 bytes; of several ranks, the highest's peaks."""
        on_cuda = self.device.type == "cuda"
        measure = "allocated" if on_cuda else "resident"
        ranks = [self.so_far(), *self.by_rank[1:]]
        peaks = {}
        for kind in KINDS if on_cuda else ("resident",):
            peaks[f"{kind}_gib"] = _highest_by_phase(ranks, kind)
        facts: dict[str, Any] = {
            "device": str(self.device),
            "measure": measure,
            "peak_gib": peaks[f"{measure}_gib"],
            **peaks,
        }
        if len(ranks) > 1:
            facts["peak_gib_by_rank"] = [_highest_by_phase([rank], measure) for rank in ranks]
        facts["baseline_gib"] = to_gib(self.baseline)
        facts["allocation_retries"] = self._allocation_retries()
        facts["sampled"] = self.host.sampled
        return facts

    def _allocation_retries(self) -> int:
        """How often CUDA's allocator freed its cache to find room."""
        if self.device.type != "cuda":
            return 0
        return torch.cuda.memory_stats(self.device).get("num_alloc_retries", 0)


def _highest_by_phase(ranks: list[Peaks], kind: str) -> dict[str, float]:
    """GiB at the highest rank's peak, for each phase of the first rank."""
    highest = {}
    for phase in ranks[0]:
        sizes = [rank[phase][kind] for rank in ranks if phase in rank]
        highest[phase] = to_gib(max(sizes))
    return highest


def to_gib(count: float) -> float:
    """Bytes as GiB, to a KiB."""
    return round(count / GIB, 6)
