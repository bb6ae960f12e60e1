"""Push: the saved model on the hub, with a card made of the record, once the run is finished and on disk."""

import logging
import shlex
from pathlib import Path

from tuneoff.config import Experiment
from tuneoff.config.model import ADAPTER_CONFIG
from tuneoff.config.paths import exists, expand_user, is_hub_name
from tuneoff.data.hub_access import explain_hub_error
from tuneoff.training.export import MERGED_FOLDER, MODEL_FOLDER
from tuneoff.training.model_card import write_model_card

log = logging.getLogger(__name__)
CARD = "README.md"
LONGEST_REASON = 300  # characters of what the hub's client raised


def push_model(experiment: Experiment, folder: Path, result: dict) -> None:
    """Upload the model that a finished run has saved to `experiment.push`; a failure is told, and raises nothing."""
    if experiment.push is None or result["status"] != "finished":
        return
    model = folder / MODEL_FOLDER
    try:
        card = write_model_card(result, find_base(experiment), (model / ADAPTER_CONFIG).is_file())
        (model / CARD).write_text(card, "utf-8")
        log.info("pushed to %s", upload(model, experiment.push))
    except KeyboardInterrupt:
        warn(experiment.push, model, "stopped")
    except (
        Exception
    ) as error:  # whatever the hub, the network or the disk does, the run is worth more
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = explain_hub_error(error, experiment.push) or lines[0][:LONGEST_REASON]
        warn(experiment.push, model, reason)


def warn(push: str, model: Path, reason: str) -> None:
    """Say that the model is not on the hub, and the command that uploads it."""
    command = shlex.join(["hf", "upload", push, str(model)])
    log.warning("push=%s: %s; the run is finished, and this uploads it: %s", push, reason, command)


def find_base(experiment: Experiment) -> str | None:
    """The base model's name on the hub; None for a folder, a shape, and what ships, unless `hub_name` says it."""
    path = experiment.hub_name or experiment.model.path
    if path is None or not is_hub_name(path) or exists(expand_user(path)):
        return None
    return path


def upload(model: Path, name: str) -> str:
    """Put the files of a saved model into a repository, which is made where there is none; returns its address."""
    from huggingface_hub import HfApi

    hub = HfApi()
    address = hub.create_repo(name, exist_ok=True)
    hub.upload_folder(
        repo_id=name,
        folder_path=model,
        ignore_patterns=[f"{MERGED_FOLDER}/*"],
        commit_message="Trained by tuneoff",
    )
    return str(address)
