"""Sources: where rows come from (files of this machine, sets of the hub, the embedded corpus)."""

from functools import partial

from tuneoff.config import (
    SingleSet,
    data_hash,
    embedded_file,
    format_of,
    is_shipped,
    resolve_folder,
)
from tuneoff.data.files import read_by_split
from tuneoff.data.hub import open_with_datasets
from tuneoff.data.source_rows import Source


def open_source(data: SingleSet) -> Source:
    """Find the set that `data` names; no row is read yet, nor fetched from the hub.

    Raises:
        ConfigError: a set that the hub does not have or does not give.
    """
    if is_shipped(data.path):
        file = embedded_file(data.path)
        return Source(partial(read_by_split, data, file), "", data.path)
    if data.on_hub:
        return open_with_datasets(
            data,
            data.path,
            data.subset,
            streaming=data.streaming,
            revision=data.revision,
        )
    folder = resolve_folder(data.path)
    content_hash = data_hash(data.path)
    if not data.subset and not data.streaming:
        # A file is read as its ending says.
        ending = f"{format_of(folder)} {folder.suffix.lower()}"
        key = f"{content_hash} {ending}"
        return Source(partial(read_by_split, data, folder), key, str(folder))
    # A copy of a hub's set. Streamed, because `datasets` would take the copy that it keeps itself
    # for a new one as long as the files' times are the same.
    copy = open_with_datasets(data, str(folder), data.subset, streaming=True)
    return Source(copy.read, f"{content_hash} {copy.key}", data.path)
