"""Every causal architecture of this transformers version, shrunk, through every method for two steps.

Each finishes or is refused in one line; the first loss is the same for every method; what is saved reads back, which
the run sees to itself before it says `finished`. rsLoRA and LoRA+ are LoRA here: they differ in a scale and in rates.
`python tests/test_architectures.py [TYPE …]` writes what came of it into ARCHITECTURES.md, for all types or these.
"""

import gc
import json
import logging
import re
import sys
import tempfile
import traceback
import warnings
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import METHODS, TINY, bound, prepare_run
from shrunk_models import MODEL_TYPES, shrunk_model

from tuneoff.config import ConfigError

TABLE = Path(__file__).parent / "ARCHITECTURES.md"
MOST_WEIGHTS = 8_000_000
SHORT = [
    "tracker=none",
    "progress=false",
    "data=json",
    "data.validation_share=0.3",
    "max_length=32",
    "batch_size=2",
    "max_steps=2",
    "save_model=true",
]
TRIED = [method for method in METHODS if method not in ("rslora", "loraplus")]
# Ranks that the small matrices can give, and a block that changes with each step.
SMALL_RANKS = {
    "LoRA": ["lora_rank=2"],
    "GaLore": ["galore_rank=2"],
    "BAdam": ["badam_switch_interval=1"],
}
LEFT_OUT = {
    "blt": "reads bytes with a patching model beside it, and fails in transformers without a cache of its own",
    "cohere_compass_text": "an embedding model: its class builds no rotary positions of its default configuration",
    "dots3_note": "its default configuration names layers that a small one does not have",
    "dots3_note_text": "layers of its own sizes, which a small configuration cannot name",
    "gemma3n": "needs the package timm for its image tower; gemma3n_text is its language model",
    "gemma4_assistant": "drafts for another model, whose hidden states it needs",
    "gemma4_unified_assistant": "drafts for another model, whose hidden states it needs",
    "prophetnet": "predicts several tokens ahead, so that its head reads several states a token; refused in one line",
    "reformer": "its backward pass refuses a model whose evaluation came between, in transformers itself",
    "musicgen": "transformers builds no causal model of its configuration",
    "musicgen_melody": "transformers builds no causal model of its configuration",
}


class Outcome(NamedTuple):
    """What came of one method on one model."""

    status: str  # finished, refused or failed
    reason: str = ""
    first_loss: float | None = None


@cache
def settings(method: str):
    """(experiment, method, config), composed once."""
    words = [f"method={method}", *SHORT, f"data.path={save_rows()}"]
    _, chosen, _ = bound(*words)
    family = type(chosen).__name__
    return bound(*words, *SMALL_RANKS.get(family, []))


@cache
def save_rows() -> Path:
    """A dozen short pairs, of which some are kept for the validation loss."""
    path = Path(tempfile.mkdtemp(prefix="tuneoff-tests-")) / "rows.jsonl"
    rows = [{"prompt": f"Say {n}.", "completion": f"It is {7 * n}, {n}."} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_model(model_type: str, folder: Path) -> int:
    """Save the shrunk model with the shipped tokenizer; returns how many weights it has."""
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    model = shrunk_model(model_type)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return model.num_parameters()


def try_method(model_folder: Path, method: str, folder: Path) -> Outcome:
    """Train for two steps and export, which reads back."""
    experiment, chosen, config = deepcopy(settings(method))
    experiment.model.path = str(model_folder)
    try:
        training = prepare_run(experiment, chosen, folder, config)
        training.fit()
        training.conclude()
    except ConfigError as error:
        return Outcome("refused", str(error).replace(str(model_folder), "MODEL"))
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}", None)
    return Outcome("finished", "", training.parts.evaluation.losses["initial"])


def try_all(model_type: str) -> tuple[int, dict[str, Outcome]]:
    """(number of weights, the outcome of each method)."""
    with tempfile.TemporaryDirectory() as scratch:
        model_folder = Path(scratch) / "base"
        weights = save_model(model_type, model_folder)
        outcomes = {}
        for method in TRIED:
            outcomes[method] = try_method(model_folder, method, Path(scratch) / method)
        return weights, outcomes


def complaints(outcomes: dict[str, Outcome]) -> list[str]:
    """What is not as it should be."""
    wrong = []
    losses = {}
    for method, outcome in outcomes.items():
        if outcome.status not in ("finished", "refused"):
            wrong.append(f"{method} {outcome.status}: {outcome.reason}")
        if outcome.status == "refused" and "\n" in outcome.reason:
            wrong.append(f"{method} is refused in several lines")
        if outcome.first_loss is not None:
            losses[method] = outcome.first_loss
    if not losses and any(outcome.status == "finished" for outcome in outcomes.values()):
        wrong.append("no first loss")
    if losses and not max(losses.values()) - min(losses.values()) <= 1e-4:
        wrong.append(f"first losses differ: {losses}")
    return wrong


@pytest.mark.architectures
@pytest.mark.parametrize("model_type", sorted(set(MODEL_TYPES) - set(LEFT_OUT)))
def test_every_method_on_every_architecture(model_type):
    _, outcomes = try_all(model_type)
    assert not complaints(outcomes)


# ---------------------------------------------------------------- the table
HEAD = """# Architectures

What every method comes to on every model type that `AutoModelForCausalLM` builds in this version of transformers: a
shrunk model with random weights, two steps, the export read back. Written by `python tests/test_architectures.py`.

| model type | weights | finished | refused or wrong |
|---|---|---|---|
"""


def table_row(model_type: str) -> str:
    """One line of the table."""
    if model_type in LEFT_OUT:
        return f"| {model_type} | - | - | left out: {LEFT_OUT[model_type]} |"
    try:
        weights, outcomes = try_all(model_type)
    except Exception as error:
        traceback.print_exc()
        return (
            f"| {model_type} | - | - | cannot be built: {type(error).__name__}: {one_line(error)} |"
        )
    finished = [method for method in TRIED if outcomes[method].status == "finished"]
    words = "all" if len(finished) == len(TRIED) else ", ".join(finished) or "none"
    reasons: dict[str, list[str]] = {}
    for method, outcome in outcomes.items():
        if outcome.status == "refused":
            reasons.setdefault(one_line(outcome.reason), []).append(method)
    notes = [f"{', '.join(methods)}: {reason}" for reason, methods in reasons.items()]
    notes += [f"WRONG {one_line(complaint)}" for complaint in complaints(outcomes)]
    return f"| {model_type} | {weights:,} | {words} | {'; '.join(notes)} |"


def one_line(text: object) -> str:
    """Of a cell's length."""
    words = " ".join(str(text).split()).replace("|", "/")
    return re.sub(r"(?<=.{300}).+", "…", words)


def main() -> None:
    """Run the types that are named, or all, and keep the lines of the others."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    gc.collect()
    gc.freeze()  # BAdam collects garbage at each switch, which takes a second where all imports are looked through
    rows = {}
    if TABLE.exists() and len(sys.argv) > 1:
        for line in TABLE.read_text().removeprefix(HEAD).splitlines():
            rows[line.split("|")[1].strip()] = line
    for model_type in sys.argv[1:] or MODEL_TYPES:
        rows[model_type] = table_row(model_type)
        print(rows[model_type], flush=True)
        TABLE.write_text(HEAD + "\n".join(rows[name] for name in sorted(rows)) + "\n")


if __name__ == "__main__":
    main()
