"""Export: the trained model in a folder that `from_pretrained` loads."""

import shutil
from typing import Any

from tuneoff.models.loading import load_model
from tuneoff.training.setup import Parts, seeded

MODEL_FOLDER = "model"


def export_model(parts: Parts) -> dict:
    """Save the trained model and its tokenizer, if the run asks for it, in a phase of its own; all ranks must call.

    Returns:
        The method's facts for the record.
    """
    experiment = parts.experiment
    if not experiment.save_model:
        return {}
    folder = parts.folder / MODEL_FOLDER
    with parts.peaks.phase("export"), seeded(experiment.seed, "modules"):

        def make_whole_model() -> Any:
            return parts.method.prepare(load_model(experiment))

        model = parts.sharding.gather_model(parts.model, parts.wrapped_model, make_whole_model)
        if not parts.ranks.first:
            return {}
        try:
            facts = parts.method.export(model, folder, experiment.export_merged)
            parts.tokenizer.save_pretrained(folder)
        except BaseException:
            # Half a model is none, and on a full disk it takes the record's room.
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return facts
