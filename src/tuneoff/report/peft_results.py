"""Result files of PEFT's method comparison, read as rows.

The format, as `log_results` in `method_comparison/MetaMathQA/utils.py` of huggingface/peft writes it, one JSON file an
experiment, named `TUNER--EXPERIMENT.json`:

- `run_info`: `experiment_name` (`TUNER/EXPERIMENT`), `created_at`, `train_config` (`model_id`, `max_steps`,
  `batch_size`, `max_seq_length`, `dtype`, `seed`, …) and `peft_config` (null for full fine-tuning);
- `train_info`: `status` (`success` counts), `num_trainable_params`, `file_size` in bytes, `train_time` in seconds,
  `accelerator_memory_max` in bytes, and `metrics`, a list with an entry an evaluation (`step`, `valid accuracy`, …),
  whose last entry has the `test accuracy`, a share of 1, and `forgetting`;
- `meta_info`: `model_info.sha`, `dataset_info` (by name, each with a `sha`), `package_info` and `system_info`.

A file has one seed, no number of test examples, and no score of any one example. The number follows from the data set
(`TEST_EXAMPLES`). Scores are read where somebody put them beside the file as `TUNER--EXPERIMENT.jsonl`: a line for each
test example in the set's order, with `correct` (true or false, 1 or 0).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneoff.report.reading import MOST_BYTES
from tuneoff.report.records import ReportError, as_number
from tuneoff.report.text import clean_value, cut_name, show_line, show_path

TEST_EXAMPLES = {"gsm8k": 1319}
GIB = 2**30
MIB = 2**20
# What runs must agree in to stand in one table, by the paths in a file.
KEPT_APART = {
    "model": "run_info.train_config.model_id",
    "model's revision": "meta_info.model_info.sha",
    "steps": "run_info.train_config.max_steps",
    "batch size": "run_info.train_config.batch_size",
    "length": "run_info.train_config.max_seq_length",
    "accelerator": "meta_info.system_info.accelerator",
}
# What is said where rows of one table differ in it.
NOTED = {
    "PEFT's commit": "meta_info.package_info.peft-commit-hash",
    "torch": "meta_info.package_info.torch-version",
    "transformers": "meta_info.package_info.transformers-version",
    "seed": "run_info.train_config.seed",
    "precision": "run_info.train_config.dtype",
}


@dataclass(frozen=True)
class PeftResult:
    """One experiment: how many of its test examples it answered rightly, and what that took."""

    name: str
    is_full: bool
    content: dict
    correct: int
    examples: int
    scores: np.ndarray | None = None  # (examples,) of 0 and 1

    @property
    def accuracy(self) -> float:
        """The share of test examples that were answered rightly."""
        return self.correct / self.examples

    def get(self, path: str) -> Any:
        """Return the value at a path such as `train_info.status`, or None."""
        return get_value(self.content, path)

    @property
    def peak_gib(self) -> float | None:
        """The highest memory that was reserved while training, GiB."""
        return self._scaled("train_info.accelerator_memory_max", GIB)

    @property
    def saved_mib(self) -> float | None:
        """The size of what is saved, MiB."""
        return self._scaled("train_info.file_size", MIB)

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training."""
        return self._scaled("train_info.train_time", 1)

    @property
    def trainable(self) -> float | None:
        """The number of trainable parameters."""
        return self._scaled("train_info.num_trainable_params", 1)

    @property
    def forgetting(self) -> float | None:
        """The rise of the loss on other text, nats per token."""
        return as_number(read_last_metrics(self.content).get("forgetting"))

    def _scaled(self, path: str, unit: int) -> float | None:
        number = as_number(self.get(path))
        return None if number is None else number / unit


def get_value(content: Any, path: str) -> Any:
    """Return the value at a path of nested objects, or None."""
    for key in path.split("."):
        if not isinstance(content, dict):
            return None
        content = content.get(key)
    return content


def read_last_metrics(content: dict) -> dict:
    """Return the last entry of the metrics, which has the test's; empty where there is none."""
    metrics = get_value(content, "train_info.metrics")
    last = metrics[-1] if isinstance(metrics, list) and metrics else None
    return last if isinstance(last, dict) else {}


def read_peft_results(
    folder: Path, examples: int | None = None
) -> tuple[list[PeftResult], list[str]]:
    """Return the results in a folder, sorted by name, and a line for each file that holds none.

    Args:
        folder: where the files lie, not deeper.
        examples: how many test examples each accuracy is of; None takes it from the data set's name.

    Raises:
        ReportError: there is no such folder, no result in it, or an accuracy that is no share of so many examples.
    """
    if not folder.is_dir():
        raise ReportError(f"{show_path(folder)}: no such folder")
    results: list[PeftResult] = []
    skipped: list[str] = []
    for path in sorted(folder.glob("*.json")):
        outcome = _read_result(path, examples)
        if isinstance(outcome, PeftResult):
            results.append(outcome)
        else:
            skipped.append(show_line(f"{show_path(path)}: skipped, {outcome}"))
    if not results:
        reason = f" ({skipped[0]})" if skipped else ""
        raise ReportError(f"{show_path(folder)}: no result of PEFT's method comparison{reason}")
    return results, skipped


def _read_result(path: Path, examples: int | None) -> PeftResult | str:
    """The result in a file, or in words why there is none.

    Raises:
        ReportError: the accuracy is no share of the number of examples.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            return "it is too large for a result"
        content = clean_value(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        return f"not readable ({type(error).__name__})"
    status = get_value(content, "train_info.status")
    if status is None:
        return "it has no train_info.status"
    if status != "success":
        return f"its status is {cut_name(str(status))}"
    accuracy = as_number(read_last_metrics(content).get("test accuracy"))
    if accuracy is None or not 0 <= accuracy <= 1:
        return "its last metrics have no test accuracy between 0 and 1"
    count = examples or _count_examples(content)
    if count is None:
        known = ", ".join(TEST_EXAMPLES)
        return f"its data set is none of {known}: --examples says how many test examples there are"
    correct = round(accuracy * count)
    if not math.isclose(correct, accuracy * count, abs_tol=1e-3):
        raise ReportError(
            f"{show_path(path)}: a test accuracy of {accuracy:g} is no share of {count} examples; "
            "--examples says how many there are"
        )
    name = get_value(content, "run_info.experiment_name")
    is_full = get_value(content, "run_info.peft_config") is None
    scores = _read_scores(path.with_suffix(".jsonl"), correct, count)
    shown = cut_name(str(name or path.stem))
    return PeftResult(shown, is_full, content, correct, count, scores)


def _count_examples(content: dict) -> int | None:
    """The number of test examples, by the names of the data sets."""
    data_sets = get_value(content, "meta_info.dataset_info")
    for name in data_sets if isinstance(data_sets, dict) else ():
        if name in TEST_EXAMPLES:
            return TEST_EXAMPLES[name]
    return None


def _read_scores(path: Path, correct: int, examples: int) -> np.ndarray | None:
    """The score of each example, (examples,), or None where there is no such file.

    Raises:
        ReportError: the file does not hold as many, or not as many right ones, as the result says.
    """
    if not path.is_file():
        return None
    try:
        lines = path.read_text("utf-8").splitlines()
        answers = map(json.loads, lines)
        correctness = [bool(answer["correct"]) for answer in answers]
        scores = np.array(correctness, dtype=float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{show_path(path)}: not lines with `correct` ({type(error).__name__})"
        ) from None
    if len(scores) != examples or int(scores.sum()) != correct:
        raise ReportError(
            f"{show_path(path)}: {int(scores.sum())} of {len(scores)} right, but the result says "
            f"{correct} of {examples}"
        )
    return scores


# ---------------------------------------------------------------- what may stand in one table
def keep_comparable(results: Sequence[PeftResult]) -> tuple[list[PeftResult], list[str]]:
    """Return the largest group of results that agree in `KEPT_APART`, and a line for each that was left out."""
    groups: dict[tuple, list[PeftResult]] = {}
    for result in results:
        groups.setdefault(_list_conditions(result), []).append(result)
    largest = max(groups.values(), key=len)
    kept = _list_conditions(largest[0])
    left_out = []
    for conditions, members in groups.items():
        if conditions == kept:
            continue
        differing = _show_differences(conditions, kept)
        for result in members:
            left_out.append(show_line(f"{result.name}: not compared, {differing}"))
    return largest, left_out


def compare_conditions(result: PeftResult, other: PeftResult) -> str:
    """Return what a result has otherwise than another in `KEPT_APART`, such as `steps 100 instead of 5000`."""
    return _show_differences(_list_conditions(result), _list_conditions(other))


def _list_conditions(result: PeftResult) -> tuple:
    texts = [cut_name(str(result.get(path))) for path in KEPT_APART.values()]
    return (*texts, str(result.examples))


def _show_differences(conditions: tuple, kept: tuple) -> str:
    """`steps 100 instead of 5000`."""
    names = (*KEPT_APART, "test examples")
    parts = []
    for name, value, other in zip(names, conditions, kept, strict=True):
        if value != other:
            parts.append(f"{name} {value} instead of {other}")
    return ", ".join(parts)


def note_differences(results: Sequence[PeftResult]) -> Iterator[str]:
    """Yield what the rows of one table differ in and a reader must know."""
    for name, path in NOTED.items():
        values = {cut_name(str(result.get(path)))[:12] for result in results}
        if len(values) > 1:
            yield f"{name} ({', '.join(sorted(values))})"
