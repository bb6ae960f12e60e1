"""What a row says, in whichever of the usual formats: a conversation with answers, or plain text."""

import math
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from tuneoff.config import Columns, ConfigError, suggest_nearest
from tuneoff.data.source_rows import SourceRow

Message = dict[str, str]  # role (system, user or assistant) and content
# By columns, the first that fits: a set with a text beside its parts (alpaca's) is read by the parts.
FORMATS: tuple[tuple[str, dict[str, str]], ...] = (
    ("messages", {"messages": "messages"}),
    ("sharegpt", {"messages": "conversations"}),
    ("prompt_completion", {"prompt": "prompt", "completion": "completion"}),
    ("alpaca", {"prompt": "instruction", "input": "input", "completion": "output"}),
    ("text", {"text": "text"}),
)
OPTIONAL = "input"
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


class Format(NamedTuple):
    """A format's name and its columns by what they hold."""

    name: str
    columns: dict[str, str]


class Example(NamedTuple):
    """A row's content: a conversation that ends with an answer, or text; and where it stands."""

    messages: list[Message]
    text: str
    where: str

    @property
    def asks(self) -> str:
        """What stands before the first answer to a user: examples that begin alike belong to the same split."""
        if not self.messages:
            return self.text
        roles = [message["role"] for message in self.messages]
        asked = (
            roles.index("user") if "user" in roles else 0
        )  # not before: an assistant may greet first
        return repr(self.messages[: roles.index("assistant", asked)])


def find_format(columns: Columns, found: SourceRow) -> Format:
    """The format of a set, by the columns of its first row or as `columns` names them.

    Raises:
        ConfigError: a named column that is not there, or columns that make no known format.
    """
    named = {role: name for role, name in asdict(columns).items() if name is not None}
    there = ", ".join(found.row)
    for role, name in named.items():
        if name not in found.row:
            raise ConfigError(
                f"data.columns.{role}",
                name,
                f"no such column in {found.where}; there are {there}{suggest_nearest(name, found.row)}",
            )
    if named:
        return Format(
            "text"
            if "text" in named
            else "messages"
            if "messages" in named
            else "prompt_completion",
            named,
        )
    for kind, usual in FORMATS:
        if all(name in found.row for role, name in usual.items() if role != OPTIONAL):
            return Format(kind, usual)
    raise ConfigError(
        "data.path",
        found.where,
        f"has columns {there}; needs messages, conversations, prompt and "
        "completion, instruction and output, or text; others are named, as data.columns.prompt=question "
        "data.columns.completion=answer",
    )


def parse_rows(form: Format, rows: Iterable[SourceRow]) -> Iterator[Example]:
    """The content of each row.

    Raises:
        ConfigError: a row without a column, with a value that is no text, or with a role that nobody has.
    """
    columns = form.columns
    for found in rows:
        if "text" in columns:
            yield Example([], read_text(found, columns["text"]), found.where)
        elif "messages" in columns:
            yield Example(parse_conversation(found, columns["messages"]), "", found.where)
        else:
            asked = read_text(found, columns["prompt"])
            about = found.row.get(columns.get(OPTIONAL, ""))
            if about is not None and (more := as_text(found, about, columns[OPTIONAL])).strip():
                asked += f"\n\n{more}"
            answer = read_text(found, columns["completion"])
            yield Example(
                [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
                "",
                found.where,
            )


def parse_conversation(found: SourceRow, column: str) -> list[Message]:
    """The turns of a conversation up to its last answer; none where nobody answers."""
    turns = read_column(found, column)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ConfigError(
            "data.path", found.where, f"{column} must be a list of turns with role and content"
        )
    messages: list[Message] = []
    for turn in turns:
        role, content = (
            turn.get(ours, turn.get(theirs))
            for ours, theirs in (("role", "from"), ("content", "value"))
        )
        if not isinstance(role, str) or role not in ROLES:
            raise ConfigError(
                "data.path",
                found.where,
                f"{column} has a turn of role {reprlib.repr(role)}; must be "
                f"one of {', '.join(ROLES)}",
            )
        messages.append(
            {"role": ROLES[role], "content": as_text(found, content, f"{column}' content")}
        )
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def read_column(found: SourceRow, column: str) -> Any:
    """A row's value."""
    if column not in found.row:
        raise ConfigError("data.path", found.where, f"has no {column}, as the first row has")
    return found.row[column]


def read_text(found: SourceRow, column: str) -> str:
    """A row's value as text."""
    return as_text(found, read_column(found, column), column)


def as_text(found: SourceRow, value: Any, what: str) -> str:
    """A value as text, a number (of parquet; text formats give theirs as text) as Python writes it."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(
            "data.path",
            found.where,
            f"{what} must be text, not {type(value).__name__} {reprlib.repr(value)}",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone, as a broken JSON writer leaves it
        raise ConfigError(
            "data.path", found.where, f"{what} holds half a character ({error.reason})"
        ) from error
    return value
