"""Descriptions: the sentence that stands below each setting, read from the source of its dataclass."""

import ast
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any


@cache
def describe_fields(cls: Any) -> dict[str, str]:
    """Return the sentence of each field that has one, by name, those of base classes included."""
    sentences: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            sentences.update(_read_sentences(base))
    # A class that was made has no source: its fields bring their sentences.
    for item in fields(cls):
        if "sentence" in item.metadata:
            sentences[item.name] = item.metadata["sentence"]
    return sentences


def describe_class(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _read_sentences(cls: Any) -> dict[str, str]:
    """The strings that stand alone below a class's own fields."""
    body = _parse_module(cls.__module__).get(cls.__qualname__, [])
    sentences = {}
    for node, below in pairwise(body):
        text = _read_string(below)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and text:
            sentences[node.target.id] = " ".join(text.split())
    return sentences


def _read_string(node: ast.stmt) -> str | None:
    """A statement's text where the statement is a string and nothing else."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else None
    return None


@cache
def _parse_module(name: str) -> dict[str, list[ast.stmt]]:
    """The bodies of a module's classes by name; empty for a module without a source."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None:
        return {}
    tree = ast.parse(Path(path).read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: node.body for node in classes}
