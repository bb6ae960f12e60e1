"""Sets that the library `datasets` reads: from the hub, or from a folder laid out like one."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tuneoff.config import ConfigError, Data
from tuneoff.data.source_rows import Source, SourceRow


def open_with_datasets(
    data: Data, path: str, subset: str | None = None, *, streaming: bool, **settings: Any
) -> Source:
    """What `datasets` reads: a hub's set (or a folder laid out like one), or with path="parquet" files.

    Raises:
        ConfigError: a set or a subset that is not there, or a hub that is out of reach.
    """
    with as_config_error(data):
        import datasets

        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
        logging.getLogger("datasets.packaged_modules").setLevel(
            logging.CRITICAL
        )  # they raise what they tell
        builder = datasets.load_dataset_builder(path, subset, **settings)

    def read() -> dict[str, Iterable[SourceRow]]:
        with as_config_error(data):
            if not streaming:
                builder.download_and_prepare()
            found: Any = builder.as_streaming_dataset() if streaming else builder.as_dataset()
        return {name: number_rows(data, found[name], name) for name in found}

    return Source(read, str(builder.cache_dir))


def number_rows(data: Data, rows: Iterable[dict], split: str) -> Iterator[SourceRow]:
    """The rows of one split of a set."""
    with as_config_error(data):
        yield from (
            SourceRow(row, f"{data.path}: {split} row {number}")
            for number, row in enumerate(rows, 1)
        )


@contextmanager
def as_config_error(data: Data) -> Iterator[None]:
    """Turn what `datasets`, the hub and pyarrow raise into our error."""
    try:
        yield
    except Exception as error:
        if (
            not isinstance(error, OSError | ValueError | RuntimeError)
            and "datasets" not in type(error).__module__
        ):
            raise
        # `datasets` says only that generating failed; what failed stands in the cause.
        told = (
            error.__cause__
            if type(error).__name__ == "DatasetGenerationError" and error.__cause__
            else error
        )
        words = " ".join(str(told).split()) or type(told).__name__
        if isinstance(error, ConnectionError):
            words += "; a copy on this machine is read by data.path=FILE_OR_FOLDER"
        key = "data.subset" if "onfig" in words and isinstance(error, ValueError) else "data.path"
        raise ConfigError(
            key, data.subset if key == "data.subset" else data.path, words[:500]
        ) from error
