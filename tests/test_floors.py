"""The house: imports go down the floors only, nothing goes round, and a line says one thing."""

import ast
import re
import sys
from pathlib import Path

from helpers import ROOT

from tuneoff.cli.llamafactory import method_choice
from tuneoff.methods import _lora_elsewhere
from tuneoff.record.schema import FAMILIES

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from density import count_tokens, measure_functions

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
MOST_TOKENS = 24  # in a line
MEAN_TOKENS = 9
MOST_FILE_LINES = 300
MOST_FUNCTION_LINES = 45
# Lines that would say less if they were taken apart.
DENSE = (
    "lambda head, inputs: (inputs[0].flatten(0, 1).index_select(0, places), *inputs[1:])",
    "AT_A_CORNER = ((1, -1), (-1, -1), (1, 1), (-1, 1))",
    "def make_comparisons(runs: Sequence[Run], baseline: str | None, strict: bool) -> list[Comparison]:",
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


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


# ---------------------------------------------------------------- lines that can be read
def test_a_line_says_one_thing():
    dense = []
    counts = []
    for path in modules().values():
        lines = path.read_text().splitlines()
        for number, tokens in count_tokens(path).items():
            text = lines[number - 1].strip()
            counts.append(tokens)
            if tokens > MOST_TOKENS and text not in DENSE:
                dense.append(f"{path.relative_to(PACKAGE)}:{number}: {text}")
    assert not dense
    assert sum(counts) / len(counts) <= MEAN_TOKENS


def test_files_and_functions_are_short():
    long = []
    for path in modules().values():
        size = len(path.read_text().splitlines())
        if size > MOST_FILE_LINES:
            long.append(f"{path.relative_to(PACKAGE)}: {size} lines")
        for lines, name in measure_functions(path):
            if lines > MOST_FUNCTION_LINES:
                long.append(f"{name}: {lines} lines")
    assert not long


def is_crowded(node: ast.AST) -> bool:
    """Whether a node sets several values at once, is a comprehension around another, or decides inside an f-string."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        return isinstance(node.targets[0], ast.Tuple)
    inner = list(ast.walk(node))[1:]
    if isinstance(node, COMPREHENSIONS):
        return any(isinstance(part, (*COMPREHENSIONS, ast.NamedExpr)) for part in inner)
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.IfExp) for part in inner)
    return False


def test_no_statement_does_several_things():
    crowded = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if is_crowded(node):
                crowded.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not crowded


def test_what_is_crowded_is_seen():
    for text in (
        "a, b = 1, 2",
        "[[x for x in y] for y in z]",
        "[y for x in z if (y := x)]",
        "f'{1 if a else 2}'",
    ):
        assert any(map(is_crowded, ast.walk(ast.parse(text)))), text
