"""Printable text: what stands in a data set, in a form that a terminal and a log can show."""

from collections.abc import Iterable

NO_NAME = "(a column without a name)"


def escape_unprintable(text: str) -> str:
    """Return `text` with control characters and halves of characters as their escapes.

    A terminal would act on the former, and the latter cannot be encoded. A line break and a tab
    stay what they are.
    """
    if text.isprintable():
        return text
    characters = []
    for character in text:
        if character.isprintable() or character in "\n\t":
            characters.append(character)
        else:
            characters.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(characters)


def list_columns(names: Iterable[object]) -> str:
    """Return names of columns in one line, each of at most 60 characters."""
    return ", ".join(show_column(name) for name in names)


def show_column(name: object) -> str:
    """Return a column's name as an error line shows it."""
    text = str(name)
    if not text.strip():
        return NO_NAME
    line = escape_unprintable(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= 60 else f"{line[:57]}..."
