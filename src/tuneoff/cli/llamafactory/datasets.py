"""dataset_info.json: what LLaMA-Factory calls a data set, as settings of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneoff.config import suggest_nearest

INFO = "dataset_info.json"
ONLINE = "ONLINE"
# Its columns of pairs → ours.
PAIR_COLUMNS = {
    "prompt": "prompt",
    "query": "input",
    "response": "completion",
    "history": "history",
}
# Columns that no format here reads.
UNREAD_COLUMNS = {
    "tools": "rows with tools are not read",
    "images": "images are not read",
    "videos": "videos are not read",
    "audios": "sound is not read",
    "chosen": "pairs of a better and a worse answer are not trained",
    "rejected": "pairs of a better and a worse answer are not trained",
    "kto_tag": "judged answers are not trained",
}
# The roles that are known here, and by which keys turns name them.
TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "model"),
    "system_tag": ("system", "developer"),
}


class UnusableSet(ValueError):
    """Why a data set cannot be taken."""


def find_info(
    folder: Any,
    source: Path,
) -> tuple[Mapping[str, Any], Path | None]:
    """Return what is known of the sets by name, and the folder of their files.

    `folder` is looked for where the command is started, then beside the YAML and above it.

    Raises:
        UnusableSet: there is no such file, or it cannot be read.
    """
    if isinstance(folder, Mapping):
        return folder, Path("data")
    if not isinstance(folder, str):
        raise UnusableSet(f"needs a folder's name as dataset_dir, which is {folder}")
    if folder == ONLINE:
        return {}, None
    if folder.startswith("REMOTE:"):
        raise UnusableSet(f"needs {INFO} of {folder[7:]} in a folder of this machine")
    places = [Path(folder)]
    places += [parent / folder for parent in source.absolute().parents]
    for place in places:
        file = place / INFO
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UnusableSet(f"{file} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise UnusableSet(f"{file} is no object of sets by name")
        return content, place
    raise UnusableSet(
        f"needs {folder}/{INFO}, which is neither here nor above the YAML; dataset_dir= says where"
    )


def translate_set(
    name: str, info: Mapping[str, Any], folder: Path | None, stage: str
) -> dict[str, str]:
    """Return our settings of a set, by key without `data.`.

    Args:
        name: what the YAML calls it.
        info: of all sets, by name.
        folder: where files lie; None where names are those of a hub.
        stage: pt trains text, sft answers.

    Raises:
        UnusableSet: a set that is not there, or that holds what is not read here.
    """
    if folder is None:
        return {"name": name.rpartition("/")[2], "path": name}
    if name not in info:
        raise UnusableSet(f"{INFO} has no {name}{suggest_nearest(name, info)}")
    entry = info[name]
    if not isinstance(entry, Mapping):
        raise UnusableSet(f"{INFO} says nothing of {name}")
    settings = {"name": name, "path": find_place(name, entry, folder)}
    for key, ours in (("subset", "subset"), ("split", "splits.train")):
        if entry.get(key) is not None:
            settings[ours] = str(entry[key])
    for key in ("folder", "num_samples"):
        if entry.get(key) is not None:
            raise UnusableSet(f"{name} has {key}={entry[key]}, which is not read here")
    if entry.get("ranking"):
        raise UnusableSet(f"{name}: {UNREAD_COLUMNS['chosen']}")
    settings.update(translate_columns(name, entry, stage))
    return settings


def find_place(
    name: str,
    entry: Mapping[str, Any],
    folder: Path,
) -> str:
    """Return the hub's name of a set, or its file.

    Raises:
        UnusableSet: it comes from elsewhere, or nothing says whence.
    """
    if entry.get("hf_hub_url"):
        return str(entry["hf_hub_url"])
    for key in ("ms_hub_url", "om_hub_url", "cloud_file_name", "script_url"):
        if entry.get(key):
            raise UnusableSet(
                f"comes from {key}={entry[key]}; files and the hub of Hugging Face are read"
            )
    if not entry.get("file_name"):
        raise UnusableSet(f"{INFO} names no file of {name}")
    return str(folder / str(entry["file_name"]))


def translate_columns(
    name: str,
    entry: Mapping[str, Any],
    stage: str,
) -> dict[str, str]:
    """Return the columns of a set, under `columns.`.

    Raises:
        UnusableSet: columns or tags that are not read here.
    """
    for key in ("columns", "tags"):
        if not isinstance(entry.get(key) or {}, Mapping):
            raise UnusableSet(f"{name}: {key} must be names by name")
    columns = entry.get("columns") or {}
    for column, reason in UNREAD_COLUMNS.items():
        if columns.get(column):
            raise UnusableSet(f"{name}: {reason} ({column})")
    settings: dict[str, str] = {}
    if entry.get("formatting", "alpaca") != "alpaca":
        check_tags(name, entry.get("tags") or {})
        settings["columns.messages"] = str(columns.get("messages") or "conversations")
    elif stage == "pt":
        settings["columns.text"] = str(columns.get("prompt") or "instruction")
        return settings
    else:
        # Without any, they are found by their usual names, which are the same here.
        for theirs, ours in PAIR_COLUMNS.items():
            if columns.get(theirs):
                settings[f"columns.{ours}"] = str(columns[theirs])
    if columns.get("system"):
        settings["columns.system"] = str(columns["system"])
    return settings


def check_tags(name: str, tags: Mapping[str, Any]) -> None:
    """Refuse names of roles and keys that no reader here knows.

    Raises:
        UnusableSet: for the first.
    """
    for tag, known in TAGS.items():
        value = tags.get(tag)
        if value is not None and value not in known:
            raise UnusableSet(f"{name} has {tag}={value}; {', '.join(known)} are read")
