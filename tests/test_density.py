"""Density: a line says one thing, and files and functions can be read at one sitting."""

import ast
import sys

from helpers import ROOT

sys.path.insert(0, str(ROOT / "tests" / "tools"))
from density import SOURCES, count_tokens, measure_functions

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
SOURCE_FILES = sorted(SOURCES.rglob("*.py"))
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_a_line_says_one_thing():
    dense = []
    counts = []
    for path in SOURCE_FILES:
        lines = path.read_text().splitlines()
        for number, tokens in count_tokens(path).items():
            text = lines[number - 1].strip()
            counts.append(tokens)
            if tokens > MOST_TOKENS and text not in DENSE:
                dense.append(f"{path.relative_to(SOURCES)}:{number}: {text}")
    assert not dense
    assert sum(counts) / len(counts) <= MEAN_TOKENS


def test_files_and_functions_are_short():
    long = []
    for path in SOURCE_FILES:
        size = len(path.read_text().splitlines())
        if size > MOST_FILE_LINES:
            long.append(f"{path.relative_to(SOURCES)}: {size} lines")
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
    for path in SOURCE_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if is_crowded(node):
                crowded.append(f"{path.relative_to(SOURCES)}:{node.lineno}")
    assert not crowded


def test_what_is_crowded_is_seen():
    for text in (
        "a, b = 1, 2",
        "[[x for x in y] for y in z]",
        "[y for x in z if (y := x)]",
        "f'{1 if a else 2}'",
    ):
        assert any(map(is_crowded, ast.walk(ast.parse(text)))), text
