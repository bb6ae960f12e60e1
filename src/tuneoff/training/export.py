"""Export: the trained model in a folder that `from_pretrained` loads."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneoff.models.loading import load_model
from tuneoff.training.setup import Parts, seeded

MODEL_FOLDER = "model"
MERGED_FOLDER = "merged"  # in it


def export_model(parts: Parts) -> Iterator[dict]:
    """Save the trained model and its tokenizer, if the run asks for it, in a phase of its own; all ranks must call.

    Yields:
        The method's facts for the record, of each stage as soon as it is whole: the model, then the merged one. What
        a stage has saved stays, whatever fails after it.
    """
    experiment = parts.experiment
    if not experiment.save_model:
        return
    folder = parts.folder / MODEL_FOLDER
    with parts.peaks.phase("export"), seeded(experiment.seed, "modules"):

        def make_whole_model() -> Any:
            return parts.method.prepare(load_model(experiment))

        model = parts.sharding.gather_model(parts.model, make_whole_model)
        if not parts.ranks.first:
            return
        yield _save(parts, model, folder)
        if experiment.export_merged:
            yield _save_merged(parts, model, folder)


def _save(parts: Parts, model: Any, folder: Path) -> dict:
    """Save what was trained, in place of what an earlier run has left there; returns the method's facts."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        facts = parts.method.export(model, folder, False)
        parts.tokenizer.save_pretrained(folder)
    except BaseException:
        # Half a model is none, and on a full disk it takes the record's room.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return facts


def _save_merged(parts: Parts, model: Any, folder: Path) -> dict:
    """Save the model without adapters beside them, which stay whatever becomes of it; returns the method's facts."""
    try:
        return parts.method.export_merged(model, folder)
    except BaseException:
        shutil.rmtree(folder / MERGED_FOLDER, ignore_errors=True)
        raise
