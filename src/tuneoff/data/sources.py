"""Sources: where rows come from (files of this machine, sets of the hub, the embedded corpus)."""

from functools import partial

from tuneoff.config import Data, data_hash, embedded_file, resolve_folder
from tuneoff.data.files import read_by_split
from tuneoff.data.hub import open_with_datasets
from tuneoff.data.source_rows import Source


def open_source(data: Data) -> Source:
    """Find `data`; nothing is read yet, nor fetched from the hub.

    Raises:
        ConfigError: a set that the hub does not have or does not give.
    """
    if data.path.startswith("tuneoff:"):
        return Source(partial(read_by_split, data, embedded_file(data.path)), "")
    if data.on_hub:
        return open_with_datasets(
            data, data.path, data.subset, streaming=data.streaming, revision=data.revision
        )
    content = data_hash(data.path)
    if data.subset or data.streaming:
        # Not by way of the copy that `datasets` keeps, which it takes for new as long as the files' times are the same.
        copied = open_with_datasets(
            data, str(resolve_folder(data.path)), data.subset, streaming=True
        )
        return Source(copied.read, f"{content} {copied.key}")
    return Source(partial(read_by_split, data, resolve_folder(data.path)), content)
