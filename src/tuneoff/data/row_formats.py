"""Row formats: what a row says in each of the usual ones, a conversation with answers or text."""

import math
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from tuneoff.config import Columns, ConfigError, suggest_nearest
from tuneoff.data.source_rows import SourceRow

Message = dict[str, str]  # role (system, user or assistant) and content
# Columns by what they hold. The first that fits counts: a set with a text beside its parts
# (Alpaca's) is read by the parts.
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
# A turn's role and content under the names of OpenAI's format, and of ShareGPT's.
TURN_KEYS = {"role": "from", "content": "value"}


class Format(NamedTuple):
    """A format's name, and its columns by what they hold."""

    name: str
    columns: dict[str, str]


class Example(NamedTuple):
    """A row's content: a conversation that ends with an answer, or text."""

    messages: list[Message]
    text: str
    location: str

    @property
    def first_question(self) -> str:
        """What stands before the first answer to a user.

        Examples that begin alike belong to the same split.
        """
        if not self.messages:
            return self.text
        roles = [message["role"] for message in self.messages]
        # An assistant may greet before anybody asks.
        first_user = roles.index("user") if "user" in roles else 0
        first_answer = roles.index("assistant", first_user)
        return repr(self.messages[:first_answer])


def find_format(columns: Columns, first_row: SourceRow) -> Format:
    """Return the format of a set, as `columns` names it or by the columns of its first row.

    Raises:
        ConfigError: a named column that is not there, or columns that make no known format.
    """
    there = ", ".join(first_row.values)
    given = asdict(columns)
    named = {role: given[role] for role in given if given[role] is not None}
    for role, name in named.items():
        if name not in first_row.values:
            hint = suggest_nearest(name, first_row.values)
            message = f"no such column in {first_row.location}; there are {there}{hint}"
            raise ConfigError(f"data.columns.{role}", name, message)
    if "text" in named:
        return Format("text", named)
    if "messages" in named:
        return Format("messages", named)
    if named:
        return Format("prompt_completion", named)
    for format_name, usual_columns in FORMATS:
        needed = [name for role, name in usual_columns.items() if role != OPTIONAL]
        if all(name in first_row.values for name in needed):
            return Format(format_name, usual_columns)
    raise ConfigError(
        "data.path",
        first_row.location,
        f"has columns {there}; needs messages, conversations, prompt and completion, "
        "instruction and output, or text; others are named, as data.columns.prompt=question "
        "data.columns.completion=answer",
    )


def parse_rows(row_format: Format, rows: Iterable[SourceRow]) -> Iterator[Example]:
    """Yield the content of each row.

    Raises:
        ConfigError: a row without a column, with a value that is no text, or with an unknown role.
    """
    columns = row_format.columns
    for row in rows:
        if "text" in columns:
            text = read_text(row, columns["text"])
            yield Example([], text, row.location)
        elif "messages" in columns:
            conversation = parse_conversation(row, columns["messages"])
            yield Example(conversation, "", row.location)
        else:
            yield Example(parse_pair(row, columns), "", row.location)


def parse_pair(row: SourceRow, columns: dict[str, str]) -> list[Message]:
    """Return a prompt, with its input below it, and a completion as two turns."""
    prompt = read_text(row, columns["prompt"])
    input_column = columns.get("input", "")
    value = row.values.get(input_column)
    if value is not None:
        input_text = as_text(row, value, input_column)
        if input_text.strip():
            prompt += f"\n\n{input_text}"
    completion = read_text(row, columns["completion"])
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]


def parse_conversation(row: SourceRow, column: str) -> list[Message]:
    """Return the turns of a conversation up to its last answer; none where nobody answers."""
    turns = read_column(row, column)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        message = f"{column} must be a list of turns with role and content"
        raise ConfigError("data.path", row.location, message)
    messages = [parse_turn(row, column, turn) for turn in turns]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def parse_turn(row: SourceRow, column: str, turn: dict) -> Message:
    """Return one turn of a conversation."""
    values = {}
    for key, sharegpt_key in TURN_KEYS.items():
        values[key] = turn.get(key, turn.get(sharegpt_key))
    role = values["role"]
    if not isinstance(role, str) or role not in ROLES:
        allowed = ", ".join(ROLES)
        message = f"{column} has a turn of role {reprlib.repr(role)}; must be one of {allowed}"
        raise ConfigError("data.path", row.location, message)
    content = as_text(row, values["content"], f"{column}' content")
    return {"role": ROLES[role], "content": content}


def read_column(row: SourceRow, column: str) -> Any:
    """Return a row's value."""
    if column not in row.values:
        message = f"has no {column}, as the first row has"
        raise ConfigError("data.path", row.location, message)
    return row.values[column]


def read_text(row: SourceRow, column: str) -> str:
    """Return a row's value as text."""
    return as_text(row, read_column(row, column), column)


def as_text(row: SourceRow, value: Any, name: str) -> str:
    """Return a value as text, and a number as Python writes it.

    Only parquet gives numbers: text formats give theirs as text.

    Args:
        row: where the value stands.
        value: the value.
        name: what an error calls it.

    Raises:
        ConfigError: the value is no text, or no whole text.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        kind = type(value).__name__
        message = f"{name} must be text, not {kind} {reprlib.repr(value)}"
        raise ConfigError("data.path", row.location, message)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone, as a broken JSON writer leaves it
        message = f"{name} holds half a character ({error.reason})"
        raise ConfigError("data.path", row.location, message) from error
    return value
