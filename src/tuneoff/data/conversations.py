"""Conversations: turns in OpenAI's form or ShareGPT's, and which of the answers are trained."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from tuneoff.config import ConfigError
from tuneoff.data.printable import show_column
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.unread import UnreadParts, is_empty

Message = dict[str, str]  # role (system, user or assistant) and content
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
# A turn's role and content, each under OpenAI's name and ShareGPT's.
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
# Marks that switch a turn's loss off: OpenAI's, Axolotl's, and two that are in use elsewhere.
MARK_KEYS = ("weight", "train", "loss_mask", "loss")
MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
# Parts of a turn without which its content would be another: an assistant that calls a tool says
# nothing, and would be trained to say nothing.
REFUSED_KEYS = ("tool_calls", "function_call", "tool_call_id", "train_detail", "training_detail")
READ_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, *MARK_KEYS))


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str
    trained: bool = True  # of an answer: whether its tokens are labels

    @property
    def is_answer(self) -> bool:
        """Whether the assistant speaks."""
        return self.role == "assistant"

    def to_message(self) -> Message:
        """Return the turn as chat templates take it."""
        return {"role": self.role, "content": self.content}


def give_system(messages: list[Message], words: str | None) -> list[Message]:
    """Return a conversation that begins with these words of the system, where it has none of its own."""
    if not words or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": words}, *messages]


def refuse_row(row: SourceRow, message: str) -> ConfigError:
    """Return the error of a row that cannot be read."""
    return ConfigError("data.path", row.location, message)


def cut_after_last_label(turns: Sequence[Turn]) -> list[Turn]:
    """Return a conversation up to its last answer that is trained; nothing where none is."""
    kept = list(turns)
    while kept and not (kept[-1].is_answer and kept[-1].trained):
        kept.pop()
    return kept


def parse_turns(row: SourceRow, column: str, unread: UnreadParts) -> list[Turn]:
    """Return the turns of a row's conversation, without those of a system that says nothing.

    Args:
        row: the row.
        column: where its conversation is.
        unread: counts what turns hold beside a role, a content and a mark.

    Raises:
        ConfigError: what is no list of turns, or a turn that cannot be read.
    """
    value = read_column(row, column)
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise refuse_row(row, f"{column} must be a list of turns with role and content")
    turns = []
    for given in value:
        turn = parse_turn(row, column, given, unread)
        if turn.role != "system" or turn.content.strip():
            turns.append(turn)
    return turns


def parse_turn(row: SourceRow, column: str, turn: dict, unread: UnreadParts) -> Turn:
    """Return one turn of a conversation.

    Raises:
        ConfigError: a role that nobody has, a content that is no text, a mark that is neither on
            nor off, or a part that cannot be left out.
    """
    role = read_role(row, column, turn)
    for key in REFUSED_KEYS:
        if not is_empty(turn.get(key)):
            raise refuse_row(row, f"{column} has a turn with {key}, which no template here takes")
    content = read_content(row, column, turn)
    mark = read_mark(row, column, turn)
    for key in turn.keys() - READ_KEYS:
        if not is_empty(turn[key]):
            unread.turn_keys[show_column(key)] += 1
    if mark and role != "assistant":
        unread.turn_keys[f"a mark to train on the {role}"] += 1
    return Turn(role, content, mark is not False)


def read_role(row: SourceRow, column: str, turn: dict) -> str:
    """Return who speaks: system, user or assistant.

    Raises:
        ConfigError: nobody or somebody unknown, or two names that mean different speakers.
    """
    names = [turn[key] for key in ROLE_KEYS if turn.get(key) is not None]
    for name in names or [None]:
        if not isinstance(name, str) or name not in ROLES:
            shown = "null" if name is None else reprlib.repr(name)
            message = f"{column} has a turn of role {shown}; must be one of {', '.join(ROLES)}"
            raise refuse_row(row, message)
    roles = {ROLES[name] for name in names}
    if len(roles) > 1:
        message = f"{column} has a turn with role={names[0]} and from={names[1]}; which is it?"
        raise refuse_row(row, message)
    return roles.pop()


def read_content(row: SourceRow, column: str, turn: dict) -> str:
    """Return what is said in a turn.

    Raises:
        ConfigError: it is no text, holds a part that is no text, or is given twice.
    """
    values = [turn[key] for key in CONTENT_KEYS if turn.get(key) is not None]
    if len(values) == 2 and values[0] != values[1]:
        raise refuse_row(row, f"{column} has a turn whose content and value differ")
    name = f"{column}' content"
    value = values[0] if values else None
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "".join(read_part(row, name, part) for part in value)
    return as_text(row, value, name)


def read_part(row: SourceRow, name: str, part: dict) -> str:
    """Return the text of one part of a content that is given as a list of parts.

    Raises:
        ConfigError: the part is an image or anything else that is no text.
    """
    kind = part.get("type", "text")
    if kind != "text":
        message = f"{name} has a part of type {reprlib.repr(kind)}; only text is read"
        raise refuse_row(row, message)
    return as_text(row, part.get("text"), name)


def read_mark(row: SourceRow, column: str, turn: dict) -> bool | None:
    """Return whether a turn is marked to be trained; None where it has no mark.

    Raises:
        ConfigError: a mark that is neither on nor off, or two that differ.
    """
    marks = {}
    for key in MARK_KEYS:
        value = turn.get(key)
        if value is None:
            continue
        word = str(value).lower()
        if word not in MARKS:
            shown = reprlib.repr(value)
            raise refuse_row(row, f"{column} has a turn with {key}={shown}; must be 0 or 1")
        marks[key] = MARKS[word]
    if len(set(marks.values())) > 1:
        raise refuse_row(row, f"{column} has a turn whose {' and '.join(marks)} differ")
    return next(iter(marks.values()), None)


# ---------------------------------------------------------------- values
def read_column(row: SourceRow, column: str) -> Any:
    """Return a row's value.

    Raises:
        ConfigError: the row does not have the column.
    """
    if column not in row.values:
        raise refuse_row(row, f"has no {show_column(column)}, as the first row has")
    return row.values[column]


def read_text(row: SourceRow, column: str) -> str:
    """Return a row's value as text.

    Raises:
        ConfigError: the row does not have the column, or no text there.
    """
    return as_text(row, read_column(row, column), column)


def read_optional_text(row: SourceRow, column: str | None) -> str:
    """Return a row's value as text; empty where there is no such column or nothing in it.

    Raises:
        ConfigError: the value is no text.
    """
    if column is None or row.values.get(column) is None:
        return ""
    text = read_text(row, column)
    return text if text.strip() else ""


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
    shown_name = show_column(name)
    if value is None:
        raise refuse_row(row, f"{shown_name} must be text, not null")
    if not isinstance(value, str):
        written = "null"
        if value is not None:
            written = f"{type(value).__name__} {reprlib.repr(value)}"
        raise refuse_row(row, f"{shown_name} must be text, not {written}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone, as a broken JSON writer leaves it
        message = f"{shown_name} holds half a character ({error.reason})"
        raise refuse_row(row, message) from error
    return value
