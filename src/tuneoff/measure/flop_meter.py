"""FLOP meter: what a run's steps compute, counted in a few of them, and its share of the device's matrix rate."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from tuneoff.measure.operations import count_flops

TERA = 10**12
SHORTEST_TURN = 8  # steps; of shorter ones counting would slow too large a part
FIRST_STEADY_STEP = 1


class FlopCounter(TorchDispatchMode):
    """Adds up the floating-point operations of products, attention and decompositions inside; not those of others."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled layers run as compiled: their products, attention and decompositions are calls all the same."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        _, flops = count_flops(func.overloadpacket, args, kwargs, result)
        self.flops += flops
        return result


class FlopMeter:
    """Floating-point operations of the measured steps, per rank.

    Counting costs a part of a step. So the second step is counted, whose operations a position stand for those of the
    steps after it; the first, for what a method renews at intervals; and where what trains changes in turn, the first
    of each turn. None of these steps is measured.
    """

    def __init__(self, matrix_rate: float, source: str, optimizer: Any):
        """Take the device's rate, in operations a second, whose figure that is, and the optimizer of the run."""
        self.matrix_rate = matrix_rate
        self.source = source
        self.interval: int = getattr(optimizer, "refresh_interval", 0)
        self.turns = 0
        if hasattr(optimizer, "phases_of_cycle") and self.interval >= SHORTEST_TURN:
            self.turns = len(optimizer.phases_of_cycle())
        self._first: tuple[int, int] = (0, 0)  # operations and positions of the first step
        self._each_position = 0.0  # operations, in the steps from the last count on
        self._renewal = 0.0  # operations at the end of an interval, beside those of its step
        self.flops = 0.0  # of the measured steps
        self.seconds = 0.0

    def counted_steps(self) -> set[int]:
        """The steps that are counted, from 0."""
        turns = {turn * self.interval for turn in range(1, self.turns)}
        return {0, FIRST_STEADY_STEP, *turns}

    def start(self, step: int) -> FlopCounter | None:
        """What counts a step; None where it is not counted."""
        return FlopCounter() if step in self.counted_steps() else None

    def add_count(self, step: int, flops: int, positions: int) -> None:
        """Take in the count of a step.

        Args:
            positions: of its batches on this rank, padding included.
        """
        if step == 0:
            self._first = (flops, positions)
        self._each_position = flops / max(1, positions)
        if step == FIRST_STEADY_STEP and self.interval > 1 and not self.turns:
            first_flops, first_positions = self._first
            self._renewal = max(0.0, first_flops - self._each_position * first_positions)

    def add_step(self, positions: int, seconds: float, measured: bool) -> float | None:
        """Add a step; returns its share of the device's matrix rate, None where nothing was counted."""
        if not self._each_position:
            return None
        flops = self._each_position * positions
        if self.interval:
            flops += self._renewal / self.interval
        if measured:
            self.flops += flops
            self.seconds += seconds
        return flops / seconds / self.matrix_rate

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        names = ("_first", "_each_position", "_renewal", "flops", "seconds")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave; from nothing, where a checkpoint is older than this."""
        for name, value in state.items():
            setattr(self, name, value)

    def facts(self) -> dict[str, Any]:
        """The record's figures, per rank; None where no step was measured."""
        facts: dict[str, Any] = {"tflops_per_second": None, "mfu": None}
        if self.seconds and self.flops:
            rate = self.flops / self.seconds
            facts["tflops_per_second"] = float(f"{rate / TERA:.4g}")
            facts["mfu"] = float(f"{rate / self.matrix_rate:.4g}")
        matrix_tflops = float(f"{self.matrix_rate / TERA:.4g}")
        facts["matrix_rate"] = {"tflops_per_second": matrix_tflops, "source": self.source}
        return facts
