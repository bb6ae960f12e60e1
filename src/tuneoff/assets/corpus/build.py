"""The shipped corpus: its build, so that anyone who holds the same CPython release can make it byte for byte.

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
from pathlib import Path

from tuneoff.assets.corpus.library import (
    Example,
    Function,
    WrongRelease,
    find_functions,
    read_library,
)

# A module's role. Pretraining gets (1) each module with a copyright or licence notice of its own: a whole
# module keeps the notice beside the code, as most of them ask, a pair could not; and (2) each module with
# fewer than this many pairs per 10,000 characters: much text, few pairs. All other modules give pairs only.
MIN_DENSITY = 4.0
NOTICE = re.compile(
    r"(copyright|\(c\)).*((19|20)\d\d|rights reserved)|licen[cs]ed (under|to)", re.IGNORECASE
)

# A little over 10 %: they lose the most to deduplication.
PAIR_SHARES = {"test": 0.11, "validation": 0.11}
TEXT_SHARES = {"validation": 0.04}
MAX_MODULE = 0.25  # of a split's share, so that no single module speaks for a whole split


def fold(text: str) -> str:
    """Return text in the form in which two texts count as the same."""
    return " ".join(text.split()).casefold()


def is_clean(text: str) -> bool:
    """Say whether text is printable ASCII and newlines only."""
    return text.isascii() and text.replace("\n", "").isprintable()


def has_body(prompt: str) -> bool:
    """Say whether a function does anything: not when all it holds is `pass`, `...` or nothing at all."""
    try:
        function = ast.parse(prompt).body[0]
    except SyntaxError:  # nothing is left under the signature
        return False
    if not isinstance(function, Function):
        return False
    return not all(_does_nothing(statement) for statement in function.body)


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_pair(prompt: str, completion: str) -> bool:
    """Say whether a function and its paragraph make an example worth learning from."""
    return (
        40 <= len(prompt) <= 1000
        and 12 <= len(completion) <= 240
        and len(completion.split()) >= 3
        and is_clean(prompt + completion)
        and fold(completion) not in fold(prompt)
        and has_body(prompt)
    )


# ---------------------------------------------------------------- splits
def split_modules(
    sizes: dict[str, int],
    shares: dict[str, float],
) -> dict[str, str]:
    """Return module -> split: each, in the order of its name's hash, goes where it fits, else to train.

    Args:
        sizes: of each module.
        shares: of each split but train, of the sizes' sum.
    """
    total = sum(sizes.values())
    room = {split: share * total for split, share in shares.items()}
    limits = {split: MAX_MODULE * size for split, size in room.items()}
    splits = {}
    for module in sorted(sizes, key=_name_hash):
        size = sizes[module]
        splits[module] = "train"
        for split, limit in limits.items():
            if size <= min(room[split], limit):
                splits[module] = split
                room[split] -= size
                break
    return splits


def _name_hash(module: str) -> bytes:
    return hashlib.sha256(module.encode()).digest()


def pair_rows(
    pairs: dict[str, list[Example]],
    pretraining: dict[str, str],
) -> list[dict]:
    """Return the pairs by split, where no text of an evaluation pair is met anywhere else."""
    sizes = {module: len(examples) for module, examples in pairs.items()}
    splits = split_modules(sizes, PAIR_SHARES)
    pretraining_parts = _folded_parts(pretraining)
    pretraining_text = fold("\n".join(pretraining.values()))

    def is_pretrained_on(example: Example) -> bool:
        folded_prompt = fold(example.prompt)
        known = {folded_prompt, fold(example.completion)} & pretraining_parts
        return bool(known) or folded_prompt in pretraining_text

    rows = []
    seen: set[str] = set()
    # Evaluation first: what it holds, train then goes without.
    for split in (*PAIR_SHARES, "train"):
        for module, examples in pairs.items():
            if splits[module] != split:
                continue
            for example in examples:
                texts = {fold(example.prompt), fold(example.completion)}
                if texts & seen:
                    continue
                if split != "train" and is_pretrained_on(example):
                    continue
                seen |= texts
                rows.append({"split": split, "module": module, **example._asdict()})
    return rows


def _folded_parts(pretraining: dict[str, str]) -> set[str]:
    """Prompts and completions of all functions of the pretraining modules, folded."""
    parts = set()
    for text in pretraining.values():
        for example in find_functions(text):
            parts.add(fold(example.prompt))
            parts.add(fold(example.completion))
    return parts


def text_rows(pretraining: dict[str, str]) -> list[dict]:
    """Return the pretraining modules with their splits."""
    sizes = {module: len(text) for module, text in pretraining.items()}
    splits = split_modules(sizes, TEXT_SHARES)
    return [
        {"split": splits[module], "module": module, "text": text}
        for module, text in pretraining.items()
    ]


# ---------------------------------------------------------------- writing
def write_rows(rows: list[dict], path: Path) -> None:
    """Write rows as xz-compressed JSON lines, always the same bytes for the same rows."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    compressed = lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(compressed)


def build(library: Path, out: Path) -> None:
    """Write both files of the corpus into `out`."""
    pairs = {}
    pretraining = {}
    for module, text in read_library(library).items():
        examples = [
            example
            for example in find_functions(text)
            if is_pair(example.prompt, example.completion)
        ]
        has_few_pairs = len(examples) < MIN_DENSITY * len(text) / 10_000
        if NOTICE.search(text) or has_few_pairs:
            pretraining[module] = text
        elif examples:
            pairs[module] = examples
    out.mkdir(parents=True, exist_ok=True)
    write_rows(pair_rows(pairs, pretraining), out / "docstrings.jsonl.xz")
    write_rows(text_rows(pretraining), out / "stdlib.jsonl.xz")


def main() -> None:
    """Run the command line."""
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
