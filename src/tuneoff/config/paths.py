"""Paths: what a path in the settings means, a place on this machine or `tuneoff:NAME` of what ships."""

import hashlib
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
TEXT = (".jsonl", ".json", ".csv")
ENDINGS = {kind + packed: kind for kind in TEXT for packed in ("", ".gz", ".xz")} | {
    ".parquet": ".parquet"
}
ALLOWED = f"{' '.join(TEXT)}, perhaps with .gz or .xz after it, or .parquet"
# What `datasets` and the hub write beside a set's files.
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}


def resolve_folder(place: str) -> Path:
    """The folder that a path or `tuneoff:NAME` means, there or not."""
    return (
        ASSETS / place.removeprefix("tuneoff:")
        if place.startswith("tuneoff:")
        else Path(place).expanduser()
    )


def embedded_file(place: str) -> Path:
    """The file of rows that `tuneoff:NAME` means, there or not."""
    return ASSETS / "corpus" / f"{place.removeprefix('tuneoff:')}.jsonl.xz"


def list_shipped(pattern: str) -> list[str]:
    """`tuneoff:NAME` of what ships with the package and fits a pattern of paths."""
    found = [path.parent if path.name == "config.json" else path for path in ASSETS.glob(pattern)]
    return sorted(f"tuneoff:{path.name.partition('.')[0]}" for path in found)


def format_of(path: Path) -> str | None:
    """`.jsonl`, `.json`, `.csv` or `.parquet`, by a file's name, text compressed or not; None for any other."""
    return next(
        (kind for ending, kind in ENDINGS.items() if path.name.lower().endswith(ending)), None
    )


def data_files(place: str | Path) -> list[Path]:
    """The files behind a local `data.path`: itself, or what a folder holds in it and below that is data, in order."""
    path = Path(place).expanduser()
    if path.is_dir():
        found = (
            file
            for file in path.rglob("*")
            if file.is_file() and format_of(file) and file.name not in METADATA
        )
        return sorted(
            file
            for file in found
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    return [path] if path.is_file() else []


def data_hash(place: str) -> str:
    """A hash of the names (in a folder) and the contents of all files behind a local `data.path`; empty without any."""
    files, digest = data_files(place), hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(Path(place).expanduser())} {content}\n".encode())
    return digest.hexdigest() if files else ""
