"""Keeps tokenised sets, so that the jobs of a sweep do not tokenise the same rows again.

A file a set, named by all that its rows depend on; whoever is first writes it, and two at once write the same.
"""

import hashlib
import json
import logging
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerBase

from tuneoff.config import Data
from tuneoff.data.dataset import SPLITS, DataSet, Row
from tuneoff.record import cache_folder, is_private, make_private_folder, write_atomically

log = logging.getLogger(__name__)


def cache_path(
    content: str, data: Data, template: str, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Path:
    """The file for a set; another one wherever content, settings, template, tokenizer or this code differ."""
    settings = {
        name: value
        for name, value in asdict(data).items()
        if name not in ("name", "path", "template")
    }
    code = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    )
    parts = [
        content,
        settings,
        template,
        max_length,
        tokenizer_hash(tokenizer),
        code.hexdigest(),
        version("tokenizers"),
        version("transformers"),
    ]
    return (
        cache_folder()
        / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.safetensors"
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of how a tokenizer makes ids of text."""
    rules: Any = [
        type(tokenizer).__name__,
        tokenizer.special_tokens_map,
        getattr(tokenizer, "split_special_tokens", 0),
    ]
    if tokenizer.is_fast:
        rules.append(tokenizer.backend_tokenizer.to_str())
    else:
        rules += [sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs]
    return hashlib.sha256(repr(rules).encode()).hexdigest()


def write_cached_set(path: Path, result: DataSet) -> None:
    """Keep a set; a folder that cannot be written costs time and no more."""
    tensors: dict[str, np.ndarray] = {}
    for split, rows in result.splits.items():
        tensors[f"{split}.ids"] = np.frombuffer(
            b"".join(row.ids.tobytes() for row in rows), np.int32
        )
        tensors[f"{split}.lengths"] = np.array([len(row.ids) for row in rows], np.int64)
        tensors[f"{split}.spans"] = np.array(
            [span for row in rows for span in row.spans], np.int64
        ).reshape(-1, 2)
        tensors[f"{split}.answers"] = np.array([len(row.spans) for row in rows], np.int64)
    rest = {
        "answers": result.answers,
        "cut": result.cut,
        "dropped": result.dropped,
        "made": result.made,
        "fingerprint": result.fingerprint,
    }
    tensors["rest"] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    try:
        make_private_folder(path.parent)
        write_atomically(path, partial(save_file, tensors), private=True)
    except (OSError, SafetensorError) as error:
        log.warning("the tokenised data is not kept: %s", error)


def read_cached_set(path: Path) -> DataSet | None:
    """A set that was kept; None where there is none that can be read, or another user could have changed it."""
    if not is_private(path):
        return None
    try:
        tensors = load_file(path)
        rest: dict[str, Any] = json.loads(tensors["rest"].tobytes())
        return DataSet(splits={split: list(_rows(tensors, split)) for split in SPLITS}, **rest)
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def _rows(tensors: dict[str, np.ndarray], split: str) -> Iterator[Row]:
    ids, spans = (
        tensors[f"{split}.ids"],
        [tuple(span) for span in tensors[f"{split}.spans"].tolist()],
    )
    first = place = 0
    for length, count in zip(
        tensors[f"{split}.lengths"].tolist(), tensors[f"{split}.answers"].tolist(), strict=True
    ):
        yield Row(
            array("i", ids[first : first + length].tobytes()), tuple(spans[place : place + count])
        )
        first, place = first + length, place + count
