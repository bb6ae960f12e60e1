"""Which model is fine-tuned, where it comes from, and what can be seen to be wrong with that before it is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tuneoff.config.options import ConfigError, check_package, check_ranges, one_of
from tuneoff.config.paths import list_shipped, resolve_folder


@dataclass
class Model:
    """What is fine-tuned: a hub name or a folder (`tuneoff:tiny` ships with the package), or without a path a shape.

    `config` is the shape: transformers' model_type and sizes. Where there is a path, the path's own shape counts.
    `gguf_file` is a file in `path`; its weights, and its tokenizer, become ordinary ones when they are loaded.
    """

    name: str = MISSING
    path: str | None = None
    gguf_file: str | None = None
    config: dict[str, Any] | None = None
    pretrained: bool = True
    tokenizer: str | None = None
    # null: sdpa, or eager where the model has no sdpa
    attention: str | None = one_of(None, "sdpa", "eager", "flash_attention_2", "flex_attention")
    liger: bool = False  # Liger's kernels for norms, rotary positions and MLPs (CUDA)
    trust_remote_code: bool = False

    def check(self) -> None:
        """Refuse ranges, and a folder that is not there; `__post_init__` cannot, since OmegaConf builds defaults."""
        check_ranges(self, "model.")
        if self.path is None and not (self.config and "model_type" in self.config):
            raise ConfigError(
                "model.path",
                None,
                "must be a folder or a hub name, unless model.config gives a shape",
            )
        if self.liger:
            check_package("model.liger", True, "liger_kernel", "liger")
        self._check_gguf()
        self._check_place("tokenizer", self.tokenizer, "")
        self._check_place("path", self.path, self.gguf_file or "config.json")
        folder = resolve_folder(self.path or "")
        weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        if self.path and self.pretrained and folder.is_dir() and not (weights or self.gguf_file):
            raise ConfigError(
                "model.pretrained", True, f"{self.path} holds no weights; false draws random ones"
            )

    def _check_gguf(self) -> None:
        """Refuse a GGUF file that is not there, and say how one is named where only `path` points to it."""
        key, file, place = "model.gguf_file", self.gguf_file, resolve_folder(self.path or "")
        there = sorted(path.name for path in place.glob("*.gguf"))
        if file is None:
            if place.suffix == ".gguf" and place.is_file():
                raise ConfigError(
                    "model.path",
                    self.path,
                    f"must be the folder of the GGUF file, with {key}={place.name}",
                )
            if self.path and there and not (place / "config.json").exists():
                raise ConfigError(
                    key,
                    None,
                    f"must be one of {', '.join(there)}, since {self.path} has no config.json",
                )
            return
        if self.path is None:
            raise ConfigError(key, file, "needs model.path, the folder or hub name that it is in")
        if place.is_dir() and not (place / file).is_file():
            raise ConfigError(
                key, file, f"{self.path} does not hold it, but {', '.join(there) or 'no GGUF file'}"
            )
        check_package(key, file, "gguf", "gguf")

    def _check_place(self, key: str, place: str | None, holds: str) -> None:
        """Refuse a folder that is not there or does not hold the file `holds`; a hub name passes."""
        if place is None or (place and (resolve_folder(place) / holds).exists()):
            return
        if place.startswith("tuneoff:"):
            raise ConfigError(
                f"model.{key}", place, f"must be {' or '.join(list_shipped('*/config.json'))}"
            )
        # A hub name is owner/name; anything else has to be a folder.
        if place.startswith((".", "/", "~")) or place.count("/") != 1 or Path(place).is_dir():
            wanted = "folder with a config.json" if holds == "config.json" else "folder"
            raise ConfigError(
                f"model.{key}", place, f"must be a {wanted}, or a hub name owner/name"
            )

    @property
    def quantised(self) -> bool:
        """Whether the weights in a local folder are quantised (a hub name says so only when it is loaded)."""
        try:
            return "quantization_config" in json.loads(
                (resolve_folder(self.path or "") / "config.json").read_text()
            )
        except (OSError, ValueError):
            return False
