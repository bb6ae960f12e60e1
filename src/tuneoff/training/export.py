"""Export: the trained model in a folder that `from_pretrained` loads."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tuneoff import data
from tuneoff.config import Experiment
from tuneoff.config.model import ADAPTER_CONFIG
from tuneoff.models.loading import load_model, resolve_path
from tuneoff.models.reading_back import (
    UnreadableExport,
    allow_rounding,
    check_logits,
    compute_logits,
    explain_unreadable,
    fits_beside,
)
from tuneoff.record import MODEL_FOLDER as MODEL_FOLDER
from tuneoff.record import read_json, write_json
from tuneoff.training.model_setup import seeded
from tuneoff.training.setup import Parts

MERGED_FOLDER = "merged"  # in MODEL_FOLDER
BASE = "base_model_name_or_path"  # in an adapter's config
PROBE_ROWS = 2  # of the data, whose logits are compared when an export is read back
PROBE_TOKENS = 64  # of each


def export_model(parts: Parts) -> Iterator[dict]:
    """Save the trained model and its tokenizer, if the run asks for it, in a phase of its own; all ranks must call.

    What was saved is read back, so that no result is lost unseen, and merged as it was read.

    Yields:
        The method's facts for the record, of each stage as soon as it is whole: the model, then the merged one. What
        a stage has saved stays, whatever fails after it.

    Raises:
        UnreadableExport: what was saved is not the trained model.
    """
    experiment = parts.experiment
    if not experiment.save_model:
        return
    folder = parts.folder / MODEL_FOLDER
    with (
        parts.peaks.phase("export"),
        seeded(experiment.seed, "modules"),
        parts.sharding.loading(),
    ):

        def make_whole_model() -> Any:
            return parts.method.prepare(load_model(experiment))

        model = parts.sharding.gather_model(parts.model, make_whole_model)
        if not parts.ranks.first:
            return
        probe = draw_probe(parts)
        trained_logits = compute_logits(model, probe)
        allowed = allow_rounding(model, trained_logits)
        yield _save(parts, model, folder)
        if keeps_trained_model(parts) and model is parts.model:
            # A checkpoint may have to be made of it yet, should a signal stop the run here.
            model = copy.deepcopy(model)
        loaded = _read_back(parts, model, folder)
        check_logits(folder, trained_logits, compute_logits(loaded, probe), allowed)
        if experiment.export_merged:
            yield _save_merged(parts, loaded, folder)


def keeps_trained_model(parts: Parts) -> bool:
    """Whether `parts.model` stays as it was trained: a large one is taken apart once it is saved."""
    return parts.sharding.splits or fits_beside(parts.model)


def draw_probe(parts: Parts) -> torch.Tensor:
    """Tokens of the first rows of the data, (rows, length)."""
    splits = parts.dataset.splits
    rows = splits["validation"] or splits["train"]
    batch = data.collate(rows[:PROBE_ROWS], parts.tokenizer.pad_token_id)
    return batch.input_ids[:, :PROBE_TOKENS]


def _read_back(parts: Parts, model: Any, folder: Path) -> Any:
    """Load what was saved, as the method does it; `model` may be taken apart for it."""
    device = model.device

    def load_base() -> Any:
        with seeded(parts.experiment.seed, "modules"):
            return load_model(parts.experiment).to(device)

    with explain_unreadable(folder):
        return parts.method.read_back(model, folder, load_base)


def _save(parts: Parts, model: Any, folder: Path) -> dict:
    """Save what was trained, in place of what an earlier run has left there; returns the method's facts."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        facts = parts.method.export(model, folder, False)
        name_base(folder, parts.experiment)
        facts["saved_bytes"] = measure_weight_files(folder)
        parts.tokenizer.save_pretrained(folder)
    except BaseException:
        # Half a model is none, and on a full disk it takes the record's room.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return facts


def name_base(folder: Path, experiment: Experiment) -> None:
    """Write `hub_name` for a path here, and `model.revision`, into a saved adapter, unless it brings its base."""
    file = folder / ADAPTER_CONFIG
    config = read_json(file)
    named = {BASE: experiment.hub_name, "revision": experiment.model.revision}
    given = {key: value for key, value in named.items() if value is not None}
    path = experiment.model.path
    if not given or config is None or path is None:
        return
    if config.get(BASE) == resolve_path(path):
        write_json(file, {**config, **given})


def measure_weight_files(folder: Path) -> int:
    """The bytes of all files of weights below a folder: an adapter, and the base that it may bring along."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _save_merged(parts: Parts, model: Any, folder: Path) -> dict:
    """Save the model without adapters beside them, which stay whatever becomes of it; returns the method's facts."""
    try:
        return parts.method.export_merged(model, folder)
    except UnreadableExport:  # it is saved, and stays to be looked at
        raise
    except BaseException:
        shutil.rmtree(folder / MERGED_FOLDER, ignore_errors=True)
        raise
