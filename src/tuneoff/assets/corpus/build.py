"""Keeps the shipped corpus honest: anyone who holds the same CPython release can rebuild it byte for byte.

Usage: ``python -m tuneoff.assets.corpus.build LIB_FOLDER OUT_FOLDER``
LIB_FOLDER is the library of CPython 3.11.7 as installed on Linux (``lib/python3.11``). Two files are written:
``docstrings.jsonl.xz`` (a function without its docstring -> the docstring's first paragraph) and
``stdlib.jsonl.xz`` (whole modules that give no pairs, to pretrain a base model on).
"""

import argparse
import ast
import hashlib
import json
import lzma
import re
import textwrap
import warnings
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

RELEASE = "3.11.7"
# What the release holds, by content: a version string would also pass for a patched or edited library.
DIGEST = "da621b9879907fcaf1bdfa73259852611886fc135d0be373b7a90d1c9c19e59d"

# Tests, installed packages and bundled wheels are not the library. The second line is generated text and
# tables that teach nothing: encodings (nearly all code pages), pydoc_data (rendered help), html/entities.
LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "ensurepip",
    "__pycache__",
    "lib-dynload",
}
LEFT_OUT |= {"encodings", "pydoc_data", "entities.py"}
# Written at build time, so they differ from machine to machine.
BUILD_OUTPUT = ("_sysconfigdata_", "config-")

# A module's role. Pretraining gets (1) each module with a copyright or licence notice of its own: a whole
# module keeps the notice beside the code, as most of them ask, a pair could not; and (2) each module with
# fewer than this many pairs per 10,000 characters: much text, few pairs. All other modules give pairs only.
MIN_DENSITY = 4.0
NOTICE = re.compile(
    r"(copyright|\(c\)).*((19|20)\d\d|rights reserved)|licen[cs]ed (under|to)", re.IGNORECASE
)

PAIR_SHARES = {
    "test": 0.11,
    "validation": 0.11,
}  # a little over 10 %: they lose the most to deduplication
TEXT_SHARES = {"validation": 0.04}
MAX_MODULE = 0.25  # of a split's share, so that no single module speaks for a whole split

Function = ast.FunctionDef | ast.AsyncFunctionDef


class WrongRelease(Exception):
    """The folder does not hold the library the corpus is defined by."""


def fold(text: str) -> str:
    """Returns text in the form in which two texts count as the same."""
    return " ".join(text.split()).casefold()


def is_clean(text: str) -> bool:
    """Says whether text is printable ASCII and newlines only."""
    return text.isascii() and text.replace("\n", "").isprintable()


def read_library(folder: Path) -> dict[str, str]:
    """Returns dotted module name -> source; raises WrongRelease unless the sources are those of RELEASE."""
    digest, modules = hashlib.sha256(), {}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    for name in sorted(found):
        parts = name.split("/")
        if LEFT_OUT & set(parts) or any(part.startswith(BUILD_OUTPUT) for part in parts):
            continue
        data = found[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\n{len(data)}\n".encode() + data)
        modules[name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")] = data
    if digest.hexdigest() != DIGEST:
        raise WrongRelease(
            f"not the library of CPython {RELEASE}: its files hash to {digest.hexdigest()}"
        )
    return {module: modules[module].decode() for module in sorted(modules)}


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yields qualified name and node of each function that is not inside another one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from definitions(child, prefix)


def bare_source(node: Function, lines: list[str]) -> str:
    """Returns a function's source, dedented, without its docstring; '' if the two share a line."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = lines[first - 1 : node.end_lineno]
    if ast.get_docstring(node, clean=False) is not None:
        doc, end = node.body[0], node.body[0].end_lineno or 0
        above, below = lines[first - 1 : doc.lineno - 1], lines[end : node.end_lineno]
        # A docstring that shares a line with code would take that code with it.
        first_line, last_line = lines[doc.lineno - 1].encode(), lines[end - 1].encode()
        beside = first_line[: doc.col_offset] + last_line[doc.end_col_offset :]
        kept = (
            [] if beside.strip() else above + list(dropwhile(lambda line: not line.strip(), below))
        )
    source = textwrap.dedent("\n".join(line.rstrip() for line in kept))
    return "" if source[:1].isspace() else source


def functions(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields name, bare source and docstring's first paragraph ('' without one) of a module's functions."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # newer interpreters warn of old spellings such as invalid escapes
        tree = ast.parse(text)
    lines = text.split("\n")
    for name, node in definitions(tree):
        docstring = ast.get_docstring(node, clean=False) or ""
        yield (
            name,
            bare_source(node, lines),
            " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split()),
        )


def has_body(prompt: str) -> bool:
    """Says whether a function does anything: not when all it holds is `pass`, `...` or nothing at all."""
    try:
        function = ast.parse(prompt).body[0]
    except SyntaxError:  # nothing is left under the signature
        return False
    body = function.body if isinstance(function, Function) else []
    return not all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in body
    )


def is_pair(prompt: str, completion: str) -> bool:
    """Says whether a function and its paragraph make an example worth learning from."""
    return (
        40 <= len(prompt) <= 1000
        and 12 <= len(completion) <= 240
        and len(completion.split()) >= 3
        and is_clean(prompt + completion)
        and fold(completion) not in fold(prompt)
        and has_body(prompt)
    )


def split_modules(sizes: dict[str, int], shares: dict[str, float]) -> dict[str, str]:
    """Returns module -> split: each, in the order of its name's hash, goes where it fits, else to train."""
    room = {split: share * sum(sizes.values()) for split, share in shares.items()}
    limit = {split: MAX_MODULE * size for split, size in room.items()}
    splits = {}
    for module in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        size = sizes[module]
        splits[module] = next((s for s in room if size <= min(room[s], limit[s])), "train")
        if splits[module] in room:
            room[splits[module]] -= size
    return splits


def pair_rows(pairs: dict[str, list], pretraining: dict[str, str]) -> list[dict]:
    """Returns the pairs by split, where no text of an evaluation pair is met anywhere else."""
    splits = split_modules({module: len(found) for module, found in pairs.items()}, PAIR_SHARES)
    known = {
        fold(part)
        for text in pretraining.values()
        for _, *parts in functions(text)
        for part in parts
    }
    whole = fold("\n".join(pretraining.values()))
    rows, seen = [], set[str]()
    for split in (
        *PAIR_SHARES,
        "train",
    ):  # evaluation first: what it holds, train then goes without
        for module in (module for module in pairs if splits[module] == split):
            for name, prompt, completion in pairs[module]:
                keys = {fold(prompt), fold(completion)}
                if keys & seen or (split != "train" and (keys & known or fold(prompt) in whole)):
                    continue
                seen |= keys
                row = {"split": split, "module": module, "name": name}
                rows.append(row | {"prompt": prompt, "completion": completion})
    return rows


def text_rows(pretraining: dict[str, str]) -> list[dict]:
    """Returns the pretraining modules with their splits."""
    splits = split_modules({module: len(text) for module, text in pretraining.items()}, TEXT_SHARES)
    return [
        {"split": splits[module], "module": module, "text": text}
        for module, text in pretraining.items()
    ]


def write_rows(rows: list[dict], path: Path) -> None:
    """Writes rows as xz-compressed JSON lines, always the same bytes for the same rows."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))


def build(library: Path, out: Path) -> None:
    """Writes both files of the corpus into out."""
    pairs, pretraining = {}, {}
    for module, text in read_library(library).items():
        found = [row for row in functions(text) if is_pair(*row[1:])]
        if NOTICE.search(text) or len(found) < MIN_DENSITY * len(text) / 10_000:
            pretraining[module] = text
        elif found:
            pairs[module] = found
    out.mkdir(parents=True, exist_ok=True)
    write_rows(pair_rows(pairs, pretraining), out / "docstrings.jsonl.xz")
    write_rows(text_rows(pretraining), out / "stdlib.jsonl.xz")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("LIB_FOLDER", "OUT_FOLDER"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    try:
        build(args.LIB_FOLDER, args.OUT_FOLDER)
    except WrongRelease as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
