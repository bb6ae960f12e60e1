"""Sets that the library `datasets` reads: from the hub, or from a folder laid out like one."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tuneoff.config import ConfigError, SingleSet
from tuneoff.data.hub_access import explain_hub_error, prepare_hub
from tuneoff.data.source_rows import Source, SourceRow
from tuneoff.data.typed_values import convert_row, find_converters


def open_with_datasets(
    data: SingleSet,
    path: str,
    subset: str | None = None,
    *,
    streaming: bool,
    **settings: Any,
) -> Source:
    """Return a source that `datasets` reads.

    Args:
        data: the settings that an error names.
        path: a hub's set, or a folder laid out like one.
        subset: of the set.
        streaming: whether rows are fetched as they are asked for, and nothing is kept.
        settings: further arguments of `datasets.load_dataset_builder`.

    Raises:
        ConfigError: a set or a subset that is not there, or a hub that is out of reach.
    """
    with as_config_error(data):
        if data.on_hub:
            prepare_hub()
        import datasets

        datasets.disable_progress_bars()
        # They log what they raise.
        logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
        builder = datasets.load_dataset_builder(path, subset, **settings)

    def read() -> dict[str, Iterable[SourceRow]]:
        """Return the rows of each split; those that are not streamed are fetched first."""
        splits: Any
        with as_config_error(data):
            if streaming:
                splits = builder.as_streaming_dataset()
            else:
                builder.download_and_prepare()
                splits = builder.as_dataset()
        return {split: number_rows(data, splits[split], split) for split in splits}

    return Source(read, str(builder.cache_dir), data.path)


def number_rows(data: SingleSet, rows: Any, split: str) -> Iterator[SourceRow]:
    """Yield the rows of one split of a set with their places; a class is given by its name.

    Args:
        data: the settings that an error names.
        rows: the split, as `datasets` has it.
        split: its name.
    """
    converters = find_converters(rows.features)
    with as_config_error(data):
        for number, row in enumerate(rows, 1):
            yield SourceRow(convert_row(row, converters), f"{data.path}: {split} row {number}")


@contextmanager
def as_config_error(data: SingleSet) -> Iterator[None]:
    """Turn what `datasets`, the hub and pyarrow raise into a refusal in one line."""
    try:
        yield
    except Exception as error:
        usual = isinstance(error, OSError | ValueError | RuntimeError)
        package = type(error).__module__.partition(".")[0]
        if not usual and package not in ("datasets", "huggingface_hub", "httpx", "httpx2"):
            raise
        reason = explain_hub_error(error, data.path) if data.on_hub else None
        if reason:
            raise ConfigError("data.path", data.path, reason) from error
        cause: BaseException = error
        # `datasets` says only that generating failed; what failed stands in the cause.
        if type(error).__name__ == "DatasetGenerationError" and error.__cause__:
            cause = error.__cause__
        message = " ".join(str(cause).split()) or type(cause).__name__
        if isinstance(error, ConnectionError):
            message += "; a copy on this machine is read by data.path=FILE_OR_FOLDER"
        # "BuilderConfig 'x' not found", "Config name is missing"
        if "onfig" in message and isinstance(error, ValueError):
            raise ConfigError("data.subset", data.subset, message[:500]) from error
        raise ConfigError("data.path", data.path, message[:500]) from error
