"""Row formats: what a row says in each of the usual ones, a conversation with answers or text."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import NamedTuple

from tuneoff.config import Columns, ConfigError, suggest_nearest
from tuneoff.data.conversations import (
    Message,
    Turn,
    as_text,
    cut_after_last_label,
    parse_turns,
    read_optional_text,
    read_text,
    refuse_row,
)
from tuneoff.data.printable import list_columns, show_column
from tuneoff.data.source_rows import SourceRow
from tuneoff.data.unread import UnreadParts, is_empty
from tuneoff.data.verdicts import refuse_bad_answer

# Columns by what they hold. The first that fits counts: a set with a text beside its parts
# (Alpaca's) is read by the parts.
FORMATS: tuple[tuple[str, dict[str, str]], ...] = (
    ("messages", {"messages": "messages"}),
    ("sharegpt", {"messages": "conversations"}),
    ("prompt_completion", {"prompt": "prompt", "completion": "completion"}),
    ("alpaca", {"prompt": "instruction", "input": "input", "completion": "output"}),
    ("text", {"text": "text"}),
)
# Columns that any row may lack. All formats of conversations have the last; the usual names of
# the last two are these words.
OPTIONAL = ("input", "history", "system")

EMPTY_LINE = "\n\n"


class Format(NamedTuple):
    """A format's name, and its columns by what they hold."""

    name: str
    columns: dict[str, str]
    # What stands between a prompt and its input.
    input_break: str = EMPTY_LINE
    # Columns that say of an answer whether it is a good one, as numbers too.
    verdict_columns: tuple[str, ...] = ()

    def recorded_columns(self, used: set[str]) -> dict[str, str]:
        """Return the columns for the record: of history and system only those that were used."""
        unused = {"history", "system"} - used
        return {role: name for role, name in self.columns.items() if role not in unused}


class Example(NamedTuple):
    """A row's content: a conversation that ends with an answer, or text."""

    messages: list[Message]
    text: str
    location: str
    # Numbers of the answers that are context only, counted from 0 among the answers.
    untrained: frozenset[int] = frozenset()
    is_answered: bool = True  # whether there is anything to train: an answer, or text

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
    there = list_columns(first_row.values)
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
    if "prompt" in named:
        return Format("prompt_completion", named)
    for format_name, usual_columns in FORMATS:
        needed = [name for role, name in usual_columns.items() if role not in OPTIONAL]
        if all(name in first_row.values for name in needed):
            return Format(format_name, usual_columns | find_optional(format_name, named))
    raise ConfigError(
        "data.path",
        first_row.location,
        f"has columns {there}; needs messages, conversations, prompt and completion, "
        "instruction and output, or text; others are named, as data.columns.prompt=question "
        f"data.columns.completion=answer{hint_at_wrapped_rows(first_row)}",
    )


def find_optional(format_name: str, named: dict[str, str]) -> dict[str, str]:
    """Return where the system's words and the history are, of a format found by its columns.

    Raises:
        ConfigError: `named` names the system's column, and the format is text.
    """
    if format_name == "text":
        for role, name in named.items():
            raise ConfigError(f"data.columns.{role}", name, "must be null where the rows are text")
        return {}
    optional = {"system": "system"}
    if format_name in ("prompt_completion", "alpaca"):
        optional["history"] = "history"
    return optional | named


def hint_at_wrapped_rows(row: SourceRow) -> str:
    """Return a hint where what was read as a row seems to hold all rows of a file."""
    for name, value in row.values.items():
        is_list = isinstance(value, list) and len(value) > 0
        if is_list and all(isinstance(item, dict) for item in value):
            return f"; if {show_column(name)} holds the rows, save that list as the file"
    return ""


def parse_rows(
    row_format: Format, rows: Iterable[SourceRow], unread: UnreadParts
) -> Iterator[Example]:
    """Yield the content of each row.

    Args:
        row_format: the format of all rows.
        rows: the rows.
        unread: counts what the rows hold that is not read.

    Raises:
        ConfigError: a row without a column, with a value that is no text, or with an unknown role.
    """
    columns = row_format.columns
    for row in rows:
        unread.count_columns(row, columns.values())
        try:
            if "text" in columns:
                text = read_text(row, columns["text"])
                unread.empty_texts += not text.strip()
                example = Example([], text, row.location)
            else:
                turns = parse_conversation(row, row_format, unread)
                example = make_example(turns, row.location, unread)
        except ConfigError as error:
            if not unread.skips_bad_rows:
                raise
            unread.bad_rows.append(str(error).removeprefix("data.path="))
            continue
        yield example


def parse_conversation(
    row: SourceRow,
    row_format: Format,
    unread: UnreadParts,
) -> list[Turn]:
    """Return all turns of a row, whether they are given as a list or in columns.

    Raises:
        ConfigError: as `parse_rows`, two different words of the system, or an answer that is marked as a bad one.
    """
    columns = row_format.columns
    refuse_bad_answer(row, columns.values(), row_format.verdict_columns)
    if "messages" in columns:
        turns = parse_turns(row, columns["messages"], unread)
    else:
        turns = parse_history(row, columns.get("history"))
        if turns:
            unread.used_columns.add("history")
        turns += parse_pair(row, row_format)
    system = read_optional_text(row, columns.get("system"))
    if not system:
        return turns
    unread.used_columns.add("system")
    if turns and turns[0].role == "system":
        if turns[0].content != system:
            message = f"{show_column(columns['system'])} differs from the turn of the system"
            raise refuse_row(row, message)
        return turns
    return [Turn("system", system), *turns]


def parse_pair(row: SourceRow, row_format: Format) -> list[Turn]:
    """Return a prompt, with its input below it if it says anything itself, and a completion as two turns."""
    columns = row_format.columns
    prompt = read_text(row, columns["prompt"])
    input_text = read_optional_text(row, columns.get("input"))
    if input_text and prompt.strip():
        prompt += row_format.input_break + input_text
    elif input_text:
        prompt = input_text
    completion = read_text(row, columns["completion"])
    return [Turn("user", prompt), Turn("assistant", completion)]


def parse_history(row: SourceRow, column: str | None) -> list[Turn]:
    """Return the turns before a prompt, which Alpaca's format has as pairs of texts.

    Raises:
        ConfigError: what is no list of pairs.
    """
    if column is None or is_empty(row.values.get(column)):
        return []
    pairs = row.values[column]
    turns = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2:
            name = show_column(column)
            raise refuse_row(row, f"{name} must be a list of pairs, each a question and an answer")
        question, answer = pair
        turns.append(Turn("user", as_text(row, question, column)))
        turns.append(Turn("assistant", as_text(row, answer, column)))
    return turns


def make_example(turns: list[Turn], location: str, unread: UnreadParts) -> Example:
    """Return a conversation up to its last trained answer; without messages where there is none."""
    turns = cut_after_last_label(turns)
    answers = [turn for turn in turns if turn.is_answer]
    untrained = set()
    for number, answer in enumerate(answers):
        if not answer.trained:
            untrained.add(number)
        elif not answer.content.strip():
            unread.empty_answers += 1
    messages = [turn.to_message() for turn in turns]
    return Example(messages, "", location, frozenset(untrained), is_answered=bool(messages))
