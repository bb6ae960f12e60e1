"""Paths: what a path in the settings means, a file or folder of this machine or `tuneoff:NAME` of what ships."""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = "tuneoff:"  # before the name of a model or a set that ships with the package
TEXT_FORMATS = (".jsonl", ".json", ".csv")
COMPRESSIONS = ("", ".gz", ".xz")
PARQUET = ".parquet"
ALLOWED = f"{' '.join(TEXT_FORMATS)}, perhaps with .gz or .xz after it, or .parquet"
# owner/name, as the hub has them; one that begins with a dot is a path.
HUB_NAME = re.compile(r"(?!\.)[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
# What `datasets` and the hub write beside a set's files.
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}


# ---------------------------------------------------------------- what a path means
def is_shipped(path: str) -> bool:
    """Whether a path is written `tuneoff:NAME`."""
    return path.startswith(SHIPPED)


def is_hub_name(path: str) -> bool:
    """Whether a path that is not on this machine can be a hub's owner/name."""
    return HUB_NAME.fullmatch(path) is not None


def expand_user(path: str | Path) -> Path:
    """A path with the home folder in place of `~`; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def resolve_folder(path: str) -> Path:
    """The folder that a path or `tuneoff:NAME` means, there or not."""
    if is_shipped(path):
        return ASSETS / path.removeprefix(SHIPPED)
    return expand_user(path)


def embedded_file(path: str) -> Path:
    """The file of rows that `tuneoff:NAME` means, there or not."""
    return ASSETS / "corpus" / f"{path.removeprefix(SHIPPED)}.jsonl.xz"


def list_shipped_models() -> list[str]:
    """`tuneoff:NAME` of every model that ships with the package."""
    return sorted(f"{SHIPPED}{file.parent.name}" for file in ASSETS.glob("*/config.json"))


def list_shipped_sets() -> list[str]:
    """`tuneoff:NAME` of every data set that ships with the package."""
    files = ASSETS.glob("corpus/*.jsonl.xz")
    return sorted(f"{SHIPPED}{file.name.partition('.')[0]}" for file in files)


# ---------------------------------------------------------------- what is there
# Unlike the methods of Path, these raise nothing where a name is too long, holds a null byte, or may not be looked at.
def exists(path: str | Path) -> bool:
    """Whether a path is there."""
    return os.path.exists(path)


def is_file(path: str | Path) -> bool:
    """Whether a path is a file."""
    return os.path.isfile(path)


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder."""
    return os.path.isdir(path)


def holds_home(path: str | Path) -> bool:
    """Whether a path is the user's home folder or one above it."""
    home = os.path.realpath(os.path.expanduser("~"))
    return f"{home}/".startswith(os.path.join(os.path.realpath(path), ""))


# ---------------------------------------------------------------- data files
def format_of(path: Path) -> str | None:
    """`.jsonl`, `.json`, `.csv` or `.parquet`, by a file's name, text compressed or not; None for any other."""
    name = path.name.lower()
    for text_format in TEXT_FORMATS:
        endings = tuple(text_format + compression for compression in COMPRESSIONS)
        if name.endswith(endings):
            return text_format
    return PARQUET if name.endswith(PARQUET) else None


def data_files(path: str | Path) -> list[Path]:
    """The files behind a local `data.path`: itself, or what a folder holds in it and below that is data, in order."""
    root = expand_user(path)
    if is_folder(root):
        return sorted(file for file in root.rglob("*") if _is_data_file(file, root))
    return [root] if is_file(root) else []


def _is_data_file(file: Path, root: Path) -> bool:
    """Whether a file in a folder holds rows, by its name; nothing hidden does."""
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    has_format = format_of(file) is not None and file.name not in METADATA
    return has_format and not hidden and is_file(file)


@lru_cache(maxsize=1024)
def _hash_content(
    path: Path,
    inode: int,
    size: int,
    mtime_ns: int,
    ctime_ns: int,
) -> str:
    """A hash of a file's content; read once as long as the file is the same, since each point of a sweep asks.

    The time of the last change (ctime) tells what size and age do not: nobody can set it.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(path: str) -> str:
    """A hash of the names (in a folder) and the contents of all files behind a local `data.path`; empty without any.

    Raises:
        OSError: a file that cannot be read.
    """
    root = expand_user(path)
    files = data_files(root)
    digest = hashlib.sha256()
    for data_file in files:
        facts = data_file.stat()
        content = _hash_content(
            data_file, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
        )
        line = f"{data_file.relative_to(root)} {content}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest() if files else ""
