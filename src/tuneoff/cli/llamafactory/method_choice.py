"""The method that a YAML of LLaMA-Factory chooses, and its options: by what the methods themselves say."""

from dataclasses import fields
from typing import Any

from tuneoff.cli.llamafactory.keys import OFF
from tuneoff.cli.llamafactory.kinds import format_plain
from tuneoff.cli.llamafactory.quoting import quote_unlike_text
from tuneoff.cli.llamafactory.translation import Translation
from tuneoff.config import find_method_options, schemas
from tuneoff.config.registered import find_foreign_options

TYPE = "finetuning_type"
DEFAULT_TYPE = "lora"  # LLaMA-Factory's


def choose_method(result: Translation) -> Any:
    """Take the words that choose the method; returns the class of its options, or None where there is none."""
    typed = {**result.values, TYPE: result.get(TYPE, DEFAULT_TYPE)}
    choices: dict[str, tuple[str, list[str], Any]] = {}
    for schema in schemas().values():
        options = schema.options
        _check_switches(result, options.elsewhere)
        fitting = _find_fitting(options.elsewhere, typed)
        if fitting:
            # What a family is called by comes first; the more particular words choose within it.
            entry = next(iter(fitting)).partition("=")[0]
            *_, choice = fitting.values()
            choices[entry] = (choice, list(fitting), options)
    switches = [entry for entry in choices if entry != TYPE]
    if len(switches) > 1:
        result.refuse(switches[1], f"one method a run, and {switches[0]} is another")
        return None
    if switches and typed[TYPE] != "full":
        result.refuse(switches[0], f"one method a run, and {TYPE}: {typed[TYPE]} is another")
        return None
    entry = switches[0] if switches else TYPE
    if entry not in choices:
        result.refuse(TYPE, "no method here is called so elsewhere")
        return None
    choice, words, options = choices[entry]
    result.choice = choice
    result.words["method"] = choice
    for word in words:
        key = word.partition("=")[0]
        if not _is_option(options, key):
            result.take(key, f"method={choice}")
    if entry != TYPE:
        result.ignore(TYPE, f"{entry} is more particular")
    note = options.foreign_notes.get(choice)
    if note:
        result.warn(note)
    return options


def _check_switches(result: Translation, elsewhere: dict[str, str]) -> None:
    """Refuse a switch that is neither on nor off."""
    for word in elsewhere:
        key, _, expected = word.partition("=")
        if expected == "true":
            result.is_on(key)


def _find_fitting(
    elsewhere: dict[str, str],
    typed: dict[str, Any],
) -> dict[str, str]:
    """Return a family's words that a file holds, each with its choice; none where the first does not fit."""
    fitting = {}
    for word, choice in elsewhere.items():
        key, equals, expected = word.partition("=")
        value = typed.get(key)
        if value in OFF:
            continue
        written = format_plain(value).lower()
        is_same = written == expected if key == TYPE else written.startswith(expected)
        if not equals or is_same:
            fitting[word] = choice
    entries = {word.partition("=")[0] for word in list(elsewhere)[:1]}
    first = next(iter(fitting), "").partition("=")[0]
    return fitting if first in entries else {}


def _is_option(options: Any, key: str) -> bool:
    """Whether a method has an option of this name, here or elsewhere."""
    own = {item.name for item in fields(options)}
    return key in own or key in options.foreign_options


def take_options(result: Translation, options: Any) -> None:
    """Take the method's options under their own names, and leave out those of others."""
    if options is None:
        return
    entries = _list_entries()
    only_there: set[str] = set()
    for schema in schemas().values():
        only_there.update(schema.options.foreign_ignored, schema.options.foreign_refused)
    of_methods = find_method_options() | set(find_foreign_options()) | entries | only_there
    for key in result.unsaid:
        value = result.values[key]
        if _is_option(options, key):
            ours = options.foreign_options.get(key, key)
            if value is None and key in options.foreign_defaults:
                continue
            if value is None or (key == "lora_alpha" and not value):
                result.ignore(key, "is the default")
            else:
                result.take(key, f"{ours}={_format_option(value)}")
        elif key in options.foreign_ignored:
            result.ignore(key, options.foreign_ignored[key])
        elif key in options.foreign_refused:
            default, needed = options.foreign_refused[key]
            if value == default:
                result.ignore(key, "is the default")
            else:
                result.refuse(key, needed)
        elif key in of_methods and (value in OFF or key not in entries):
            result.ignore(key, "is for another method")
    defaults = options.foreign_defaults
    for key, value in defaults.items():
        if result.get(key) is None:
            result.take(key, f"{key}={value}", note="in its code")
    for key, value in options.foreign_overrides.get(result.choice, {}).items():
        result.words[key] = value
        for line in result.lines:
            if line.key == key:
                line.text = f"{key}={value} (as it is there in effect)"


def _list_entries() -> set[str]:
    """The keys by which methods are chosen."""
    keys = set()
    for schema in schemas().values():
        for word in schema.options.elsewhere:
            keys.add(word.partition("=")[0])
    return keys


def _format_option(value: Any) -> str:
    """An option's value; names with commas between them become a list."""
    if isinstance(value, str) and "," in value:
        value = [name.strip() for name in value.split(",")]
    if isinstance(value, list):
        return f"[{','.join(map(_format_item, value))}]"
    return format_plain(value)


def _format_item(value: Any) -> str:
    """One of several values; a text with signs of Hydra's has quotes."""
    return quote_unlike_text(value) if isinstance(value, str) else format_plain(value)
