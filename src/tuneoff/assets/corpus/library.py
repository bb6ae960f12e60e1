"""The library of one CPython release, and the functions in its modules."""

import ast
import hashlib
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RELEASE = "3.11.7"
# What the release holds, by content: a version string would also pass for a patched or edited library.
DIGEST = "da621b9879907fcaf1bdfa73259852611886fc135d0be373b7a90d1c9c19e59d"

# Tests, installed packages and bundled wheels are not the library. The last three are generated text
# and tables that teach nothing: encodings (nearly all code pages), pydoc_data (rendered help), html/entities.
LEFT_OUT = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "ensurepip",
    "__pycache__",
    "lib-dynload",
    "encodings",
    "pydoc_data",
    "entities.py",
}
# Written at build time, so they differ from machine to machine.
BUILD_OUTPUT = ("_sysconfigdata_", "config-")

Function = ast.FunctionDef | ast.AsyncFunctionDef
HOLDS_FUNCTIONS = ast.If | ast.Try | ast.ExceptHandler | ast.With


class Example(NamedTuple):
    """A function as the corpus has it."""

    name: str
    prompt: str  # its source without its docstring
    completion: str  # its docstring's first paragraph; "" without one


class WrongRelease(Exception):
    """The folder does not hold the library the corpus is defined by."""


# ---------------------------------------------------------------- reading the library
def read_library(folder: Path) -> dict[str, str]:
    """Return dotted module name -> source.

    Raises:
        WrongRelease: the sources are not those of RELEASE.
    """
    paths = {}
    for path in folder.rglob("*.py"):
        name = path.relative_to(folder).as_posix()
        if not _is_left_out(name):
            paths[name] = path
    digest = hashlib.sha256()
    modules = {}
    for name in sorted(paths):
        source = paths[name].read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name}\n{len(source)}\n".encode())
        digest.update(source)
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        modules[module] = source
    if digest.hexdigest() != DIGEST:
        raise WrongRelease(
            f"not the library of CPython {RELEASE}: its files hash to {digest.hexdigest()}"
        )
    return {module: modules[module].decode() for module in sorted(modules)}


def _is_left_out(name: str) -> bool:
    """Whether a file of the library is no part of the corpus."""
    segments = name.split("/")
    if not LEFT_OUT.isdisjoint(segments):
        return True
    return any(segment.startswith(BUILD_OUTPUT) for segment in segments)


# ---------------------------------------------------------------- functions of a module
def find_definitions(
    node: ast.AST,
    prefix: str = "",
) -> Iterator[tuple[str, Function]]:
    """Yield qualified name and node of each function that is not inside another one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from find_definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, HOLDS_FUNCTIONS):
            yield from find_definitions(child, prefix)


def source_without_docstring(node: Function, lines: list[str]) -> str:
    """Return a function's source, dedented, without its docstring; "" if the two share a line."""
    decorator_lines = [decorator.lineno for decorator in node.decorator_list]
    first = min([node.lineno, *decorator_lines])
    kept = lines[first - 1 : node.end_lineno]
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        end = docstring.end_lineno or 0
        above = lines[first - 1 : docstring.lineno - 1]
        below = lines[end : node.end_lineno]
        # A docstring that shares a line with code would take that code with it. Columns count bytes.
        first_line = lines[docstring.lineno - 1].encode()
        last_line = lines[end - 1].encode()
        beside = first_line[: docstring.col_offset] + last_line[docstring.end_col_offset :]
        kept = [] if beside.strip() else above + _without_leading_blanks(below)
    source = textwrap.dedent("\n".join(line.rstrip() for line in kept))
    starts_inside = source[:1].isspace()
    return "" if starts_inside else source


def _without_leading_blanks(lines: list[str]) -> list[str]:
    for index, line in enumerate(lines):
        if line.strip():
            return lines[index:]
    return []


def find_functions(text: str) -> Iterator[Example]:
    """Yield the functions of a module's source."""
    with warnings.catch_warnings():
        # Newer interpreters warn of old spellings such as invalid escapes.
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    lines = text.split("\n")
    for name, node in find_definitions(tree):
        docstring = ast.get_docstring(node, clean=False) or ""
        paragraphs = re.split(r"\n\s*\n", docstring.strip())
        completion = " ".join(paragraphs[0].split())
        yield Example(name, source_without_docstring(node, lines), completion)
