"""The cache of tokenised sets, so that the jobs of a sweep do not tokenise the same rows again.

A set is one file, named by all that its rows depend on. Whoever is first writes it; two at once
write the same.
"""

import hashlib
import json
import logging
import re
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

from tuneoff.config import SingleSet
from tuneoff.data.dataset import SPLITS, DataSet, Row, fingerprint_rows
from tuneoff.record import cache_folder, is_private, make_private_folder, write_atomically

log = logging.getLogger(__name__)
DIGEST = "digest"  # the name of the tensor that holds the hash of all others
# Settings on which the rows do not depend, or which stand in the name of the file already.
LEFT_OUT = ("name", "path", "template", "weight", "sets", "mixing", "mixing_seed")


def cache_path(
    content: str,
    data: SingleSet,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Path:
    """Return the file for a set.

    It is another one wherever content, settings, template, tokenizer or this code differ.

    Args:
        content: a text that changes with the source's rows.
        data: the settings.
        template: the text of the template.
        tokenizer: of the model.
        max_length: tokens of a row.
    """
    settings = asdict(data)
    for name in LEFT_OUT:
        settings.pop(name, None)
    all_that_matters = [
        content,
        settings,
        template,
        max_length,
        hash_tokenizer(tokenizer),
        hash_this_code(),
        version("tokenizers"),
        version("transformers"),
    ]
    digest = hashlib.sha256(json.dumps(all_that_matters).encode()).hexdigest()
    return cache_folder() / f"{digest[:32]}.safetensors"


def hash_this_code() -> str:
    """Return a hash of the modules that make rows."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of how a tokenizer makes ids of text."""
    rules: list[Any] = [
        type(tokenizer).__name__,
        tokenizer.special_tokens_map,
        getattr(tokenizer, "split_special_tokens", 0),
    ]
    if tokenizer.is_fast:
        rules.append(tokenizer.backend_tokenizer.to_str())
    else:
        rules.append(sorted(tokenizer.get_vocab().items()))
        rules.append(tokenizer.init_kwargs)
    return hashlib.sha256(repr(rules).encode()).hexdigest()


def write_cached_set(path: Path, data_set: DataSet, name: str) -> None:
    """Keep a set. A folder that cannot be written costs time and no more.

    Args:
        path: the file.
        data_set: the set.
        name: what the locations of its rows begin with; a set of the same content may be elsewhere.
    """
    tensors: dict[str, np.ndarray] = {}
    for split, rows in data_set.splits.items():
        tensors |= rows_to_tensors(split, rows)
        tensors[f"{split}.asked"] = np.array(data_set.asked[split], np.int64)
    rest = {
        "answers": data_set.answers,
        "cut": data_set.cut,
        "dropped": data_set.dropped,
        "recipe": data_set.recipe,
        "unread": data_set.unread,
        "skipped_without_name": cut_out_name(data_set.unread.get("skipped", []), name),
    }
    tensors["rest"] = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    tensors[DIGEST] = np.frombuffer(hash_tensors(tensors), np.uint8)
    try:
        make_private_folder(path.parent)
        write_atomically(path, partial(save_file, tensors), private=True)
    except (OSError, SafetensorError) as error:
        log.warning("the tokenised data is not kept: %s", error)


def cut_out_name(texts: list[str], name: str) -> list[list[str]]:
    """Return each text in the two parts around a set's name, or whole where it does not name the set."""
    before_place = re.compile(rf"{re.escape(name)}(?=: |/)")
    return [before_place.split(text, maxsplit=1) for text in texts]


def read_cached_set(path: Path, name: str) -> DataSet | None:
    """Return a set that was kept.

    None where there is none that can be read, where another user could have changed it, or where
    anything in it is not as it was written. The fingerprint is that of the rows that are read.

    Args:
        path: the file.
        name: what the locations of the set's rows begin with now.
    """
    if not is_private(path):
        return None
    try:
        tensors = load_file(path)
        digest = tensors.pop(DIGEST).tobytes()
        if digest != hash_tensors(tensors):
            raise ValueError("its content has changed since it was written")
        rest: dict[str, Any] = json.loads(tensors["rest"].tobytes())
        skipped = [name.join(parts) for parts in rest.pop("skipped_without_name")]
        if skipped:
            rest["unread"]["skipped"] = skipped
        splits = {split: list(tensors_to_rows(split, tensors)) for split in SPLITS}
        asked = {split: array("q", tensors[f"{split}.asked"].tobytes()) for split in SPLITS}
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        log.warning("%s is damaged and made anew: %s", path, error)
        return None
    return DataSet(splits=splits, asked=asked, fingerprint=fingerprint_rows(splits), **rest)


def hash_tensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Return a hash of all that a file of the cache holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.digest()


def rows_to_tensors(split: str, rows: list[Row]) -> dict[str, np.ndarray]:
    """Return the rows of a split as four tensors.

    They are all ids one after another, the number of ids of each row, all spans, and the number
    of spans of each row.
    """
    ids = b"".join(row.ids.tobytes() for row in rows)
    lengths = []
    spans: list[tuple[int, int]] = []
    span_counts = []
    for row in rows:
        lengths.append(len(row.ids))
        spans += row.spans
        span_counts.append(len(row.spans))
    return {
        f"{split}.ids": np.frombuffer(ids, np.int32),
        f"{split}.lengths": np.array(lengths, np.int64),
        f"{split}.spans": np.array(spans, np.int64).reshape(-1, 2),
        f"{split}.span_counts": np.array(span_counts, np.int64),
    }


def tensors_to_rows(split: str, tensors: dict[str, np.ndarray]) -> Iterator[Row]:
    """Yield the rows of a split from what `rows_to_tensors` returns."""
    ids = tensors[f"{split}.ids"]
    lengths = tensors[f"{split}.lengths"].tolist()
    spans = [(start, end) for start, end in tensors[f"{split}.spans"].tolist()]
    span_counts = tensors[f"{split}.span_counts"].tolist()
    first_id = 0
    first_span = 0
    for length, span_count in zip(lengths, span_counts, strict=True):
        row_ids = ids[first_id : first_id + length].tobytes()
        row_spans = spans[first_span : first_span + span_count]
        yield Row(array("i", row_ids), tuple(row_spans))
        first_id += length
        first_span += span_count
