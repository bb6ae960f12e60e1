"""What the tests measured, method by method: `tests/MATRIX.md`, of which `pytest --matrix` renews what it measured."""

import re
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("MATRIX.md")
# What a figure is the largest difference of.
COLUMNS = {
    "reference": "a weight after 20 steps in float32, to a plain loop over PEFT or the optimizer's package, relative",
    "twice": "a loss, between two runs of one command",
    "resumed": "a loss or a weight, between an undisturbed run and one that was killed and resumed",
    "two processes": "a loss of six steps, between one process and two (gloo)",
    "fsdp2": "a loss, between one process and two under FSDP2",
    "zero2": "the same under DeepSpeed's ZeRO-2",
    "zero3": "the same under DeepSpeed's ZeRO-3",
    "exported": "a logit, or a weight, between the trained model and its export loaded again, in float32",
    "exported, bf16": "the same of weights in bfloat16",
    "merged": "a logit, between the trained model and its export merged into the base, in float32",
    "merged, bf16": "the same in bfloat16, where merging rounds",
    "start": "a logit, or the first loss, between the prepared model and its base",
    "predicted": "bytes of weights, gradients and states, between a prediction and a real step; the peak is within 3 %",
}
HEAD = """# What the tests measured, method by method

On a CPU, with models of a few layers and random weights. Each figure is the largest difference that a test measured;
0 is the same bits. `no` is a cell that cannot hold, and the file's end says why. `-` was not measured, or would mean
nothing for that method. The tests hold each figure to a bound of its own. All are measured again, in a quarter of an
hour on two cores, by

```bash
python -m pytest -n 3 -m 'slow or engines or not slow' --matrix \\
    tests/test_{reference,contract,resume,export,predict,distributed,engines,shelf,shelf_optimizers}.py
```
"""
REFUSED = "no"


@dataclass
class Matrix:
    """Cells by (method, column), and the reasons of those that cannot hold."""

    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> "Matrix":
        """The matrix that `to_markdown` has written; what another version's columns held is left out."""
        matrix = cls()
        rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
        names = rows[0] if rows else []
        for row in rows[2:]:
            for name, cell in zip(names[1:], row[1:], strict=True):
                if name in COLUMNS and cell != "-":
                    matrix.cells[row[0], name] = cell
        for column, reason, methods in re.findall(r"^- (.+?): (.+) \[(.+)\]$", text, re.M):
            for method in methods.split(", "):
                matrix.reasons[method, column] = reason
        return matrix

    def renew(self, found: list[tuple[str, str, float | str]]) -> None:
        """Put what a run measured in place of what was there; of several figures of one cell the largest counts.

        Args:
            found: (method, column, the difference or why the cell cannot hold).
        """
        figures: dict[tuple[str, str], float] = {}
        for method, column, value in found:
            cell = (method, column)
            if isinstance(value, str):
                self.cells[cell] = REFUSED
                self.reasons[cell] = value
            else:
                figures[cell] = max(value, figures.get(cell, 0.0))
        for cell, figure in figures.items():
            self.cells[cell] = f"{figure:.2g}"
            self.reasons.pop(cell, None)

    def to_markdown(self, methods: list[str]) -> str:
        """The table, what its columns are, and why cells cannot hold."""
        lines = [HEAD, f"| {' | '.join(['method', *COLUMNS])} |"]
        lines.append("|" + "---|" * (1 + len(COLUMNS)))
        for method in methods:
            row = [self.cells.get((method, column), "-") for column in COLUMNS]
            lines.append(f"| {' | '.join([method, *row])} |")
        lines.append("\nThe columns, and what their figures are differences of:\n")
        lines += [f"- `{column}`: {meaning}" for column, meaning in COLUMNS.items()]
        lines.append("\nCells that cannot hold, with what a user reads there:\n")
        together: dict[tuple[str, str], list[str]] = {}
        for (method, column), reason in sorted(self.reasons.items()):
            if method in methods:
                together.setdefault((column, reason), []).append(method)
        for (column, reason), named in sorted(together.items()):
            lines.append(f"- {column}: {reason} [{', '.join(named)}]")
        return "\n".join(lines) + "\n"
