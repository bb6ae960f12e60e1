"""FLOP meter: what a run's steps compute, counted in a few of them, and its share of the device's matrix rate."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from tuneoff.measure.operations import count_flops

TERA = 10**12
FIRST_STEADY_STEP = 1
FIRST_STEPS = (0, FIRST_STEADY_STEP)
KEPT = ("_first", "_renewal", "flops", "seconds")  # of a meter, in a checkpoint, as they are


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
    step of each phase, which stands for all steps of that phase. None of these steps is measured.

    An optimizer tells of its cycle, where it has one, by `refresh_interval`, the steps between two renewals or phases;
    `current_phase()`, which phase the next step is in; and `refresh_offsets`, empty where all is renewed in the same
    steps, from the first on. Where it does not say so, renewals are taken to be spread over the interval.
    """

    def __init__(self, matrix_rate: float, source: str, optimizer: Any):
        """Take the device's rate, in operations a second, whose figure that is, and the optimizer of the run."""
        self.matrix_rate = matrix_rate
        self.source = source
        self.interval: int = getattr(optimizer, "refresh_interval", 0)
        self._optimizer = optimizer
        self._has_phases = hasattr(optimizer, "current_phase")
        # Of the steps that are launched and not yet added, the phase. There may be two: the device is a step behind.
        self._launched: dict[int, int | None] = {}
        self._first: tuple[int, int] = (0, 0)  # operations and positions of the first step
        # Operations, by the phase; 0 while its first step is under way. None is the phase of a method without any.
        self._each_position: dict[int | None, float] = {}
        self._renewal = 0.0  # operations at the end of an interval, beside those of its step
        self.flops = 0.0  # of the measured steps
        self.seconds = 0.0

    def start(self, step: int) -> FlopCounter | None:
        """What counts a step (from 0) that is about to be launched; None where it is not counted."""
        phase = self._optimizer.current_phase() if self._has_phases else None
        self._launched[step] = phase
        is_new = self._has_phases and phase not in self._each_position
        if step not in FIRST_STEPS and not is_new:
            return None
        self._each_position.setdefault(phase, 0.0)
        return FlopCounter()

    def add_count(self, step: int, flops: int, positions: int) -> None:
        """Take in the count of a step.

        Args:
            positions: of its batches on this rank, padding included.
        """
        each_position = flops / max(1, positions)
        self._each_position[self._launched[step]] = each_position
        if step == 0:
            self._first = (flops, positions)
        elif step == FIRST_STEADY_STEP and self.interval > 1 and not self._has_phases:
            first_flops, first_positions = self._first
            self._renewal = max(0.0, first_flops - each_position * first_positions)

    def add_step(self, positions: int, seconds: float, measured: bool) -> float | None:
        """Add the earliest of the launched steps.

        Returns:
            Its share of the device's matrix rate; None where nothing was counted.
        """
        if not self._launched:
            return None
        step = min(self._launched)
        phase = self._launched.pop(step)
        each_position = self._each_position.get(phase)
        if not each_position:
            return None
        flops = each_position * positions + self._renewal * self._renewed_share(step)
        if measured:
            self.flops += flops
            self.seconds += seconds
        return flops / seconds / self.matrix_rate

    def _renewed_share(self, step: int) -> float:
        """How much is renewed in a step of what is renewed in an interval."""
        if not self.interval:
            return 0.0
        offsets = getattr(self._optimizer, "refresh_offsets", None)
        renews_at_once = offsets is not None and not offsets
        if renews_at_once:
            return float(step % self.interval == 0)
        return 1 / self.interval

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state: dict[str, Any] = {name: getattr(self, name) for name in KEPT}
        # A list, since the keys of a JSON object are strings.
        state["by_phase"] = [list(pair) for pair in self._each_position.items()]
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` gave; from nothing, where a checkpoint is older than this."""
        for name in KEPT:
            setattr(self, name, state[name])
        if "by_phase" in state:
            self._each_position = dict(state["by_phase"])
        elif self._has_phases:
            # An older checkpoint has the last count alone, does not say which phase that was, and took what two phases
            # differ by for a renewal.
            self._renewal = 0.0
        else:
            self._each_position = {None: state["_each_position"]}

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
