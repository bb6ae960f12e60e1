"""An earlier run in a folder: what another one takes over that goes on with it, and what goes where one replaces it.

Standard library only.
"""

import shutil
from pathlib import Path

from tuneoff.record.files import read_json
from tuneoff.record.schema import MODEL_FOLDER, PREDICTION, RESULT, RUN

# Which sweep a run is a job of, and what it has from there.
SWEEP_FACTS = ("sweep", "varied", "planned_seeds", "tuning", "lr_source")


def keep_sweep(start: dict, folder: Path) -> dict:
    """What run.json begins with: a sweep's job stays one, although a command for it alone goes on with it.

    Args:
        start: what it would begin with.
        folder: of the run that is gone on with, there or not.
    """
    earlier = read_json(folder / RUN) or {}
    if start.get("sweep") or not earlier.get("sweep"):
        return start
    kept = {key: earlier[key] for key in SWEEP_FACTS if key in earlier}
    return {**start, **kept}


def list_replaced(folder: Path, identity: str | None) -> list[Path]:
    """What a run leaves beside its record that would be taken for that of the run which replaces it.

    A folder `model` that the record does not tell of is the user's own.

    Args:
        folder: with the earlier run's record still in it.
        identity: of the run that replaces it. A prediction of the same settings stays.
    """
    replaced = []
    records = (read_json(folder / name) or {} for name in (RUN, RESULT))
    configs = [content.get("config") for content in records]
    if any(isinstance(config, dict) and config.get("save_model") for config in configs):
        replaced.append(folder / MODEL_FOLDER)
    prediction = read_json(folder / PREDICTION) or {}
    if prediction.get("identity") != identity:
        replaced.append(folder / PREDICTION)
    return replaced


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
