"""The house: imports go down the floors only, and nothing goes round."""

import ast
import re
from pathlib import Path

from helpers import ROOT

from tuneoff.cli.llamafactory import method_choice
from tuneoff.methods import _lora_elsewhere
from tuneoff.record.schema import FAMILIES

PACKAGE = ROOT / "src" / "tuneoff"
# From the top floor down. A module may import from its own floor and from those below it.
FLOORS = (
    "cli",
    "sweeps",
    "jobs",
    "predict",
    "training",
    "methods",
    "models",
    "data",
    "config",
    "distributed",
    "report",
    "record",
    "measure",
    "assets",
)
SCRIPTS = {"tuneoff.assets.tiny.build"}  # run by hand, not imported


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, anywhere in it."""
    targets = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                targets.add(name if name in known else str(node.module))
    return targets & known


def graph() -> dict[str, set[str]]:
    """Who imports whom, module by module."""
    paths = modules()
    return {name: imported(path, set(paths)) - {name} for name, path in paths.items()}


def floor(module: str) -> str:
    """The floor of a module; empty for those on none, the package itself and its command line."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else ""


def test_every_folder_is_a_floor():
    folders = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert folders == set(FLOORS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_imports_go_down_the_floors_only():
    upward = []
    for name, targets in graph().items():
        if name in SCRIPTS or not floor(name):
            continue
        upward += [
            f"{name} -> {target}"
            for target in targets
            if FLOORS.index(floor(target)) < FLOORS.index(floor(name))
        ]
    assert not upward


def test_nothing_goes_round():
    edges = graph()
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in edges[name]:
                visit(target, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_the_report_stands_on_the_record_alone():
    for name, targets in graph().items():
        if floor(name) == "report":
            assert {floor(target) for target in targets} <= {"report", "record"}, name


def list_texts(path: Path) -> set[str]:
    """Every string of a module but its docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant)]
    return {str(node.value) for node in constants if node not in docstrings}


def test_methods_are_named_in_their_own_files_alone():
    methods = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    methods |= set(_lora_elsewhere.ALIASES)
    own_words = set(FAMILIES) | {
        method_choice.DEFAULT_TYPE
    }  # a family's name, LLaMA-Factory's word
    named = []
    for name, path in modules().items():
        if floor(name) == "methods":
            continue
        for text in list_texts(path):
            choices = re.findall(r"\bmethod=(\w+)", text)
            if text in methods - own_words or methods.intersection(choices):
                named.append(f"{name}: {text}")
    assert not named
