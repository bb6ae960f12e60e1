"""Density: tokens a code line, by package, and the longest files and functions: python tests/tools/density.py [FOLDER].

A token is a name, an operator or a number; strings and comments count for nothing, so that words are free.
"""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER)
SOURCES = Path(__file__).parents[2] / "src" / "tuneoff"


def count_tokens(path: Path) -> Counter[int]:
    """Tokens of each code line of a file, by its number."""
    lines: Counter[int] = Counter()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in COUNTED:
                lines[token.start[0]] += 1
    return lines


def measure_functions(path: Path) -> list[tuple[int, str]]:
    """Lines of each function of a file, with its place."""
    functions = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            functions.append((size, f"{path.name}:{node.lineno} {node.name}"))
    return functions


def main(sources: Path = SOURCES) -> None:
    """Print a line a package, and what stands out."""
    by_package: dict[str, list[int]] = {}
    sizes: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    dense: list[tuple[int, str]] = []
    for path in sorted(sources.rglob("*.py")):
        place = path.relative_to(sources)
        package = place.parts[0] if len(place.parts) > 1 else "."
        lines = count_tokens(path)
        by_package.setdefault(package, []).extend(lines.values())
        sizes.append((len(path.read_text().splitlines()), str(place)))
        functions += measure_functions(path)
        dense += [(tokens, f"{place}:{number}") for number, tokens in lines.items()]
    everything = [tokens for lines in by_package.values() for tokens in lines]
    print(f"{'package':<14}{'code lines':>12}{'tokens a line':>15}")
    for package, lines in [*by_package.items(), ("all", everything)]:
        print(f"{package:<14}{len(lines):>12,}{sum(lines) / len(lines):>15.2f}")
    for title, rows in (
        ("largest files", sizes),
        ("longest functions", functions),
        ("densest lines", dense),
    ):
        print(f"\n{title}")
        for size, place in sorted(rows, reverse=True)[:5]:
            print(f"{size:>6}  {place}")
    print(f"\nlines of more than 24 tokens: {sum(tokens > 24 for tokens, _ in dense)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
