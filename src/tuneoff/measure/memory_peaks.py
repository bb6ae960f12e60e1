"""Peak memory by phase (load, train, evaluate, …): allocated on CUDA, resident on a CPU."""

import ctypes
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

GIB = 2**30


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
            self._highest = self._resident()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes at the highest point since `reset`."""
        if self.sampled:
            return max(self._highest, self._resident())
        return self._field("VmHWM")

    def _resident(self) -> int:
        import psutil

        return psutil.Process().memory_info().rss

    def _sample(self) -> None:
        while True:
            self._highest = max(self._highest, self._resident())
            time.sleep(0.01)

    @staticmethod
    def _field(name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PhasePeaks:
    """Peak memory by phase (load, train, evaluate, …): allocated on CUDA, resident on the CPU."""

    def __init__(self, device: torch.device):
        self.device, self.host, self.phase_name = device, HostPeak(), ""
        self.peaks: dict[str, dict[str, int]] = {}
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
        self.peaks, self.phase_name = self.so_far(), name
        self.host.reset()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def so_far(self) -> dict[str, dict[str, int]]:
        """Bytes by phase and kind, the phase that runs now included."""
        if not self.phase_name:
            return self.peaks
        before = self.peaks.get(self.phase_name, {})
        now = {kind: max(size, before.get(kind, 0)) for kind, size in self._read().items()}
        return {**self.peaks, self.phase_name: now}

    def _read(self) -> dict[str, int]:
        if self.device.type != "cuda":
            return {"resident": self.host.read()}
        return {
            "allocated": torch.cuda.max_memory_allocated(self.device),
            "reserved": torch.cuda.max_memory_reserved(self.device),
            "resident": self.host.read(),
        }

    def current_gib(self) -> float:
        """Memory in use now, for the progress bar."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) / GIB
        return (
            HostPeak._field("VmRSS") / GIB if not self.host.sampled else self.host._resident() / GIB
        )

    def facts(self, others: Sequence[dict] = ()) -> dict:
        """The record's `memory`, all in GiB of 2^30 bytes; `peak_gib` is by phase.

        Args:
            others: what the other ranks were at, as `so_far` says it: the peaks are then the highest rank's.
        """
        measure = "allocated" if self.device.type == "cuda" else "resident"
        everyone = [self.so_far(), *others]
        peaks = {
            f"{kind}_gib": {
                phase: to_gib(max(rank.get(phase, {}).get(kind, 0) for rank in everyone))
                for phase in everyone[0]
            }
            for kind in ("allocated", "reserved", "resident")
            if kind == "resident" or self.device.type == "cuda"
        }
        retries = (
            torch.cuda.memory_stats(self.device).get("num_alloc_retries", 0)
            if measure == "allocated"
            else 0
        )
        by_rank = [
            {phase: to_gib(kinds[measure]) for phase, kinds in rank.items()} for rank in everyone
        ]
        return {
            "device": str(self.device),
            "measure": measure,
            "peak_gib": peaks[f"{measure}_gib"],
            **peaks,
            **({"peak_gib_by_rank": by_rank} if others else {}),
            "baseline_gib": to_gib(self.baseline),
            "allocation_retries": retries,
            "sampled": self.host.sampled,
        }


def to_gib(count: float) -> float:
    """Bytes as GiB, to a KiB."""
    return round(count / GIB, 6)
