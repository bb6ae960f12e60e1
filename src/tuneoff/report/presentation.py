"""Presentation: which columns a short table has, in which order its rows stand, and under which names."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tuneoff.report.compare import Comparison
from tuneoff.report.records import ReportError, as_number
from tuneoff.report.rows import Row
from tuneoff.report.table import Column, make_columns
from tuneoff.report.text import show_line

MOST_NAMES = 40  # in a message


@dataclass(frozen=True)
class Presentation:
    """What `--columns`, `--order` and `--names` ask for, of all tables and charts alike."""

    columns: Sequence[str] = ()
    order: Sequence[str] = ()
    names: dict[str, str] = field(default_factory=dict)

    def apply(self, comparisons: Sequence[Comparison]) -> None:
        """Rename and sort the rows of each comparison.

        Raises:
            ReportError: a name or a column that no comparison has.
        """
        self._check(comparisons)
        if not self.order and not self.names:
            return
        for comparison in comparisons:
            places = sorted(range(len(comparison.rows)), key=self._find_order(comparison))
            reorder_rows(comparison, places)
            self._rename_rows(comparison.rows)
            comparison.columns = None  # made of the rows as they were

    def choose_columns(self, comparison: Comparison) -> list[Column]:
        """Return the columns of a short table: those asked for, else what decides, costs, and failed."""
        by_key = {column.key: column for column in make_columns(comparison) if not column.empty}
        wanted = list(self.columns) or list_main_columns(comparison)
        return [by_key[key] for key in wanted if key in by_key]

    def _rename_rows(self, rows: Sequence[Row]) -> None:
        """Give rows their new names.

        Raises:
            ReportError: two would have one name, or two methods one title.
        """
        before = [row.name for row in rows]
        for row in rows:
            self._rename(row)
        if self.names:
            _refuse_same([row.name for row in rows], before)
            _refuse_same([row.title for row in rows], [row.method for row in rows])

    def _rename(self, row: Row) -> None:
        """Give a row the name that is asked for, of its method, or of itself."""
        if row.name in self.names and row.name != row.method:
            row.title = row.name = self.names[row.name]
            row.label = ""
        elif row.method in self.names:
            row.title = self.names[row.method]
            row.name = row.title + row.name.removeprefix(row.method)

    def _find_order(self, comparison: Comparison) -> Callable[[int], tuple]:
        """What sorts rows: the names in `order` first, or the values of the one column that it names."""
        rows = comparison.rows
        if len(self.order) == 1 and comparison.row_names.isdisjoint(self.order):
            by_key = {column.key: column for column in make_columns(comparison)}
            column = by_key.get(self.order[0])

            def by_value(place: int) -> tuple:
                value = as_number(column.cells[place].value) if column else None
                return (value is None, value or 0.0, place)

            return by_value

        def by_name(place: int) -> tuple:
            row = rows[place]
            for index, name in enumerate(self.order):
                if name in (row.method, row.name):
                    return (index, place)
            return (len(self.order), place)

        return by_name

    def _check(self, comparisons: Sequence[Comparison]) -> None:
        keys: set[str] = set()
        names: set[str] = set()
        for comparison in comparisons:
            keys.update(column.key for column in make_columns(comparison))
            names |= comparison.row_names
        for key in self.columns:
            _check_word("--columns", key, keys)
        is_column = len(self.order) == 1 and self.order[0] in keys
        for word in [] if is_column else self.order:
            _check_word("--order", word, names | (keys if len(self.order) == 1 else set()))
        for word in self.names:
            _check_word("--names", word, names)


def reorder_rows(comparison: Comparison, places: Sequence[int]) -> None:
    """Put the rows of a comparison into another order, with what the statistics say of each."""
    chosen = list(places)
    comparison.rows = [comparison.rows[place] for place in chosen]
    comparison.verdicts = [verdict.reorder(chosen) for verdict in comparison.verdicts]


def list_main_columns(comparison: Comparison) -> list[str]:
    """Return the keys of the columns that matter: at most two measures with their differences, and the costs."""
    keys = ["method", "family", "setting", "lr"]
    for quality in comparison.qualities:
        keys += [quality.key, f"{quality.key}_difference"]
    return [*keys, "peak_train_gib", "tokens_per_second", "trainable", "outcome"]


def _refuse_same(names: Sequence[str], before: Sequence[str]) -> None:
    """Raise ReportError where two different names have become one."""
    origins: dict[str, str] = {}
    for name, old in zip(names, before, strict=True):
        first = origins.setdefault(name, old)
        if first != old:
            raise ReportError(f"--names: {first} and {old} would both be called {name}")


def _check_word(flag: str, word: str, known: set[str]) -> None:
    """Raise ReportError where a word is not known."""
    if word in known:
        return
    listing = ", ".join(sorted(known)[:MOST_NAMES])
    raise ReportError(f"{flag} {show_line(word)}: must be one of {listing}")


def parse_names(
    words: Sequence[str],
    known: Collection[str] = (),
) -> dict[str, str]:
    """Return `{"lora": "LoRA (r=8)"}` for `lora=LoRA (r=8)`.

    Args:
        words: as given, each an old name and a new one.
        known: names of rows, which may have `=` in them; another name ends at the first one.

    Raises:
        ReportError: a word without `=`, or without a name on either side.
    """
    names = {}
    for word in words:
        fitting = [name for name in known if word.startswith(f"{name}=")]
        name = max(fitting, key=len, default=word.partition("=")[0])
        shown = word[len(name) + 1 :]
        if not name or not shown.strip():
            raise ReportError(f"--names {show_line(word)}: must be written METHOD=NAME")
        if name in names:
            raise ReportError(f"--names {show_line(word)}: {show_line(name)} is named twice")
        names[name] = show_line(shown)
    return names


def split_words(
    text: str | None,
    known: Collection[str] = (),
) -> list[str]:
    """Return the words of a comma-separated list.

    Args:
        text: the list, or None for an empty one.
        known: names of rows, which may have commas in them.
    """
    parts = _split_at_commas(text or "")
    name_of = {tuple(_split_at_commas(name)): name for name in known}
    words = []
    while parts:
        lengths = range(len(parts), 0, -1)
        fitting = [length for length in lengths if tuple(parts[:length]) in name_of]
        length = fitting[0] if fitting else 1
        words.append(name_of.get(tuple(parts[:length]), parts[0]))
        del parts[:length]
    return words


def _split_at_commas(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    return [part for part in parts if part]
