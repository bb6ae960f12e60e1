"""What a prediction says: peaks by phase, what they are made of, and CUDA's own share as a line of its own."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tuneoff.measure.memory_breakdown import CATEGORIES, MemoryBreakdown
from tuneoff.measure.memory_peaks import GIB, to_gib
from tuneoff.predict.chart import draw_timeline

BLOCK = 512  # bytes: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize; every allocation is rounded up to it
CONTEXT_GIB = 0.5
CUDA_SOURCE = (
    "rounding: each tensor up to the caching allocator's 512 bytes, counted; context: 0.5 GiB, an allowance "
    "and not a prediction (torch.cuda.memory_allocated's documentation: some context is needed on the GPU "
    "and not counted; pytorch/pytorch#34323 saw 0.76 GiB; it varies with card, driver and kernels)"
)
NOT_PREDICTED = [
    "fragmentation of CUDA's caching allocator",
    "workspaces of kernels (matrix products, attention)",
    "what CUDA's kernels keep for the backward pass where PyTorch's CPU kernels keep others (attention, softmax)",
]
HOST_PHASES = ("prepare",)  # in the host's memory, before the model moves to its device
POINTS = 200


@dataclass(frozen=True)
class Moment:
    """A phase, or a step of it, with the storages that were alive."""

    phase: str
    name: str
    live: MemoryBreakdown

    @cached_property
    def bytes(self) -> dict[str, int]:
        """By category at the peak."""
        return self.live.peak()

    @cached_property
    def peak(self) -> int:
        """Bytes of all tensors at the peak."""
        return sum(self.bytes.values())

    @cached_property
    def rounded(self) -> int:
        """The same as CUDA's allocator counts them."""
        return sum(self.live.peak(BLOCK).values())


def costliest_moment(moments: Iterable[Moment]) -> Moment:
    """The moment on the device that needs the most."""
    return max(
        (moment for moment in moments if moment.phase not in HOST_PHASES),
        key=lambda moment: moment.rounded,
    )


def needed_gib(moment: Moment) -> float:
    """What a card must have: tensors, rounding and context."""
    return moment.rounded / GIB + CONTEXT_GIB


def prediction_content(moments: list[Moment], assumptions: list[str]) -> dict:
    """The part of prediction.json that was predicted."""
    top, train = (
        costliest_moment(moments),
        costliest_moment(moment for moment in moments if moment.phase == "train"),
    )
    phases: dict[str, int] = {}
    for moment in moments:
        phases[moment.phase] = max(phases.get(moment.phase, 0), moment.peak)
    return {
        "status": "predicted",
        "peak_gib": {phase: to_gib(peak) for phase, peak in phases.items()},
        "host_phases": [phase for phase in phases if phase in HOST_PHASES],
        "step_gib": {moment.name: to_gib(moment.peak) for moment in moments if moment.name},
        "breakdown_gib": {part: to_gib(size) for part, size in train.bytes.items()},
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
        "timeline": {"step": train.name, "gib": timeline(train.live)},
        "cuda": {
            "rounding_gib": to_gib(top.rounded - top.peak),
            "context_gib": CONTEXT_GIB,
            "source": CUDA_SOURCE,
        },
        "needed_gib": round(needed_gib(top), 4),
        "assumptions": assumptions,
        "not_predicted": NOT_PREDICTED,
    }


def timeline(live: MemoryBreakdown, points: int = POINTS) -> list[dict]:
    """Live GiB by category over a step's allocations and frees, thinned to the highest moment of each stretch."""
    whole = [dict(moment) for moment in live.timeline()]
    size = -(-len(whole) // points)
    stretches = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [
        {part: to_gib(moment[part]) for part in CATEGORIES}
        for moment in (max(stretch, key=lambda live: sum(live.values())) for stretch in stretches)
    ]


def show_prediction(prediction: dict, folder: Path) -> None:
    """Print the closing table, and draw the step's memory into `folder`."""
    print(format_prediction(prediction, folder))
    drawn = draw_timeline(prediction["timeline"], folder)
    print(
        f"chart: {drawn}"
        if drawn
        else "no chart: pip install 'tuneoff[report]' draws the step's memory over time"
    )


def format_prediction(prediction: dict, folder: Path) -> str:
    """What was foreseen, in a few aligned lines."""
    host = prediction["host_phases"]
    peaks = ", ".join(
        f"{phase}{' (host)' if phase in host else ''} {peak:.2f}"
        for phase, peak in prediction["peak_gib"].items()
    )
    parts = ", ".join(
        f"{part.replace('_', ' ')} {size:.2f}" for part, size in prediction["breakdown_gib"].items()
    )
    cuda, parameters = prediction["cuda"], prediction["parameters"]
    rows = [
        ("method", prediction["method"]),
        ("trainable", f"{parameters['trainable']:,} of {parameters['total']:,}"),
        ("predicted peak GiB", peaks),
        (f"  in the {prediction['breakdown_of']}", parts),
        (
            "  CUDA's own, beside",
            f"rounding {cuda['rounding_gib']:.2f}, context about {cuda['context_gib']:.1f} "
            "(allowance)",
        ),
        ("needed GiB", f"{prediction['needed_gib']:.2f}"),
    ]
    if batch := prediction.get("largest_batch"):
        answer = str(batch["batch_size"] or "none: a single row does not fit")
        rows.append((f"largest batch in {batch['gib']:g} GiB", answer))
    rows += [
        (
            "" if index else "largest tensors",
            f"{item['gib']:8.3f} GiB  {item['tensors']:5} × {item['name']} [{item['category'].replace('_', ' ')}]",
        )
        for index, item in enumerate(prediction["largest_tensors"])
    ]
    for name, key in (("assumed", "assumptions"), ("not predicted", "not_predicted")):
        rows += [("" if index else name, line) for index, line in enumerate(prediction[key])]
    rows.append(("record", str(folder)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
