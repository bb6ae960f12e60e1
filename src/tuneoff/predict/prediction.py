"""A prediction: peaks by phase, what they are made of, and CUDA's own share as a line of its own."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from tuneoff.config import Experiment
from tuneoff.measure.memory_breakdown import CATEGORIES, MemoryBreakdown
from tuneoff.measure.memory_peaks import GIB, to_gib

BLOCK = 512  # bytes: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize; every allocation is rounded up to it
CONTEXT_GIB = 0.75
CUDA_SOURCE = (
    "rounding: each tensor up to the caching allocator's 512 bytes, counted; context: 0.75 GiB, an allowance "
    "and not a prediction (torch.cuda.memory_allocated's documentation: some context is needed on the GPU "
    "and not counted; 0.72 to 0.74 GiB were seen on an H200, 0.76 in pytorch/pytorch#34323; it varies with "
    "card, driver and kernels)"
)
NOT_PREDICTED = [
    "fragmentation of CUDA's caching allocator",
    "workspaces of kernels (matrix products, attention)",
    "what CUDA's kernels keep for the backward pass where PyTorch's CPU kernels keep others (attention, softmax)",
]
HOST_PHASES = ("prepare",)  # in the host's memory, before the model moves to its device
TIMELINE_POINTS = 200


@dataclass(frozen=True)
class Moment:
    """A phase, or a step of it, with the storages that were alive."""

    phase: str
    name: str
    live: MemoryBreakdown

    @cached_property
    def bytes_by_category(self) -> dict[str, int]:
        """Bytes by category at the peak."""
        return self.live.peak()

    @cached_property
    def peak_bytes(self) -> int:
        """Bytes of all tensors at the peak."""
        return sum(self.bytes_by_category.values())

    @cached_property
    def rounded_bytes(self) -> int:
        """The same as CUDA's allocator counts them."""
        return sum(self.live.peak(BLOCK).values())


def costliest_moment(moments: Iterable[Moment]) -> Moment:
    """The moment on the device that needs the most."""
    on_device = [moment for moment in moments if moment.phase not in HOST_PHASES]
    return max(on_device, key=lambda moment: moment.rounded_bytes)


def needed_gib(moment: Moment) -> float:
    """What a card must have: tensors, rounding and context."""
    return moment.rounded_bytes / GIB + CONTEXT_GIB


def category_words(category: str) -> str:
    """A category of memory as a reader sees it: `optimizer state`."""
    return category.replace("_", " ")


def list_not_predicted(experiment: Experiment) -> list[str]:
    """What a run of these settings takes beside the figures."""
    generating = []
    for key in ("exact_match", "benchmarks", "measure_serving"):
        if getattr(experiment, key):
            generating.append(key)
    if not generating:
        return NOT_PREDICTED
    cache = "whose cache of keys and values grows with rows and tokens"
    return [*NOT_PREDICTED, f"generation ({', '.join(generating)}), {cache}"]


def prediction_content(
    moments: list[Moment], assumptions: list[str], not_predicted: list[str]
) -> dict:
    """The part of prediction.json that was predicted."""
    costliest = costliest_moment(moments)
    train = costliest_moment(moment for moment in moments if moment.phase == "train")
    peaks = peak_bytes_by_phase(moments)
    breakdown = train.bytes_by_category
    return {
        "status": "predicted",
        "peak_gib": {phase: to_gib(peak) for phase, peak in peaks.items()},
        "host_phases": [phase for phase in peaks if phase in HOST_PHASES],
        "step_gib": {moment.name: to_gib(moment.peak_bytes) for moment in moments if moment.name},
        "breakdown_gib": {category: to_gib(size) for category, size in breakdown.items()},
        "breakdown_of": train.name,
        "largest_tensors": [
            {
                "category": item["category"],
                "name": item["name"],
                "gib": to_gib(item["bytes"]),
                "tensors": item["tensors"],
            }
            for item in train.live.largest()
        ],
        "timeline": {"step": train.name, "gib": thin_timeline(train.live)},
        "cuda": {
            "rounding_gib": to_gib(costliest.rounded_bytes - costliest.peak_bytes),
            "context_gib": CONTEXT_GIB,
            "source": CUDA_SOURCE,
        },
        "needed_gib": round(needed_gib(costliest), 4),
        "assumptions": assumptions,
        "not_predicted": not_predicted,
    }


def peak_bytes_by_phase(moments: list[Moment]) -> dict[str, int]:
    """The highest peak of each phase, in the order in which phases come."""
    peaks: dict[str, int] = {}
    for moment in moments:
        earlier = peaks.get(moment.phase, 0)
        peaks[moment.phase] = max(earlier, moment.peak_bytes)
    return peaks


def thin_timeline(live: MemoryBreakdown, points: int = TIMELINE_POINTS) -> list[dict]:
    """Live GiB by category over a step's allocations and frees, thinned to the highest moment of each stretch."""
    moments = [dict(moment) for moment in live.timeline()]
    stretch_size = -(-len(moments) // points)
    highest_moments = []
    for start in range(0, len(moments), stretch_size):
        stretch = moments[start : start + stretch_size]
        highest = max(stretch, key=lambda moment: sum(moment.values()))
        highest_moments.append({category: to_gib(highest[category]) for category in CATEGORIES})
    return highest_moments
