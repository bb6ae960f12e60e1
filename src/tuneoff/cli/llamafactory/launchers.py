"""Launchers: the file of conf/accelerate that does what `deepspeed:` and `fsdp:` ask for."""

import json
from pathlib import Path
from typing import Any

from tuneoff.cli.llamafactory.keys import OFF

# Stages of ZeRO.
FILES = {"0": "ddp", "1": "zero2", "2": "zero2", "3": "zero3"}
# What conf/accelerate has not.
OTHER_PARALLELISM = ("autotp", "fp8")


def find_launcher_file(key: str, value: Any) -> str | None:
    """Return the launcher's file for a key and its value; None where it asks for none, or for one that is not here."""
    if not value or value in OFF or str(value).lower() == "false":
        return None
    if key == "fsdp":
        return "conf/accelerate/fsdp2.yaml"
    stage = find_stage(value) if key == "deepspeed" else None
    return f"conf/accelerate/{FILES[stage]}.yaml" if stage else None


def find_stage(deepspeed: Any) -> str | None:
    """Return the stage of ZeRO in a config of DeepSpeed, in its file, or in the file's name (ds_z3_config.json)."""
    content = deepspeed
    if isinstance(deepspeed, str):
        name = Path(deepspeed).name
        if any(word in name for word in OTHER_PARALLELISM):
            return None
        try:
            content = json.loads(Path(deepspeed).read_text("utf-8"))
        except (OSError, ValueError):
            stage = name.partition("z")[2][:1]
            return stage if stage in FILES else None
    if not isinstance(content, dict):
        return None
    zero = content.get("zero_optimization") or {}
    stage = str(zero.get("stage", 0)) if isinstance(zero, dict) else ""
    return stage if stage in FILES else None
