"""Parquet: the rows of one such file, by pyarrow.

`datasets` reads a file's name as a pattern, which other files' names fit too.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError, SingleSet
from tuneoff.data.hub import as_config_error
from tuneoff.data.printable import list_columns
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.text_formats import find_repeated
from tuneoff.data.typed_values import convert_row, find_converters

BATCH_ROWS = 256  # that are in memory at once


def read_parquet(data: SingleSet, path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a parquet file; a class is given by its name.

    Raises:
        ConfigError: what pyarrow cannot read, a column or a field that is there twice, or a type
            that `datasets` does not know.
    """
    # An error names the file, also one of a folder.
    with as_config_error(replace(data, path=str(path))):
        from datasets import Features
        from pyarrow.parquet import ParquetFile

        # Opened here, since pyarrow takes no name that is not UTF-8.
        with path.open("rb") as opened, ParquetFile(opened) as file:
            refuse_repeated_columns(file, path)
            features = Features.from_arrow_schema(file.schema_arrow)
            converters = find_converters(features, parses_json=True)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(convert_row(values, converters), f"{path}: row {number}")


def refuse_repeated_columns(file: Any, path: Path) -> None:
    """Refuse a parquet file that has a column twice, or a field of a column, at any depth.

    Args:
        file: the open one, pyarrow's `ParquetFile`.
        path: for the message.

    Raises:
        ConfigError: naming the column.
    """
    columns = map(file.schema.column, range(len(file.schema)))
    repeated = find_repeated(column.path for column in columns)
    if repeated:
        message = f"has the column {list_columns(repeated)} twice"
        raise ConfigError("data.path", path, message)
