"""Help: what `--help` prints, of all options or of those that are asked for; and the page made of the same text."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuneoff.cli.arguments import find_config_folders
from tuneoff.cli.described_options import (
    Choice,
    Group,
    Option,
    describe_choice,
    find_choice_files,
    list_choices,
    list_shared_groups,
)
from tuneoff.cli.own_yamls import CHOSEN
from tuneoff.config import ABSENT, ConfigError, suggest_nearest

HELP_FLAGS = ("--help", "-h")
VALUE_FLAGS = ("-cd", "-cn", "-cp", "--config-dir", "--config-name", "--config-path")
MARKDOWN_FLAG = "--markdown"
MOST_COLUMNS = 100
KEY_COLUMNS = 30
USAGE = """\
python train.py KEY=VALUE …              train once, or predict
python train.py -m KEY=VALUE,VALUE …     sweep: a run for each combination
python train.py -cd FOLDER -cn NAME …    take FOLDER/NAME.yaml, as in sweeps/
python train.py --help WORD …            of a key, a group, method=NAME, model=NAME or data=NAME
python train.py --cfg job KEY=VALUE …    print the whole config and train nothing
python train.py --hydra-help             Hydra's own flags
python -m tuneoff --help                 reports, and answers of saved models
"""
PAGE_HEAD = """\
# Options

Made by `python train.py --help --markdown > conf/OPTIONS.md` from the sentences beside the settings in `src/tuneoff`.
Defaults are those of the settings; under a method, those of its YAML.
"""


def wants_help(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for help."""
    return any(word in HELP_FLAGS for word in arguments)


def print_help(arguments: Sequence[str]) -> None:
    """Print the help that a command line asks for.

    Raises:
        ConfigError: a word that is no key, group or choice.
    """
    folders = find_config_folders(arguments)
    topics = _find_topics(arguments)
    if not topics and MARKDOWN_FLAG not in arguments:
        # Names alone: reading half a hundred YAMLs takes as long as all else.
        print(write_overview({group: find_choice_files(group, folders) for group in CHOSEN}))
        return
    choices = {group: list_choices(group, folders) for group in CHOSEN}
    if MARKDOWN_FLAG in arguments:
        print(write_page(choices), end="")
        return
    for topic in topics:
        print(write_topic(topic, choices))


def _find_topics(arguments: Sequence[str]) -> list[str]:
    """The words of a command line that are neither flags nor a flag's value."""
    topics = []
    takes_value = False
    for word in arguments:
        is_flag = word.startswith("-")
        if not is_flag and not takes_value and not word.startswith("hydra"):
            topics.append(word)
        takes_value = word in VALUE_FLAGS
    return topics


# ---------------------------------------------------------------- in the terminal
def write_overview(choices: dict[str, dict[str, Path]]) -> str:
    """Return the usage and every option that methods share."""
    parts = [USAGE]
    for group, by_name in choices.items():
        parts.append(_wrap(f"{group}=", ", ".join(by_name)))
    for options in list_shared_groups():
        parts += ["", *_format_group(options)]
    parts += ["", "The options of a method: python train.py --help method=NAME"]
    return "\n".join(parts)


def write_topic(topic: str, choices: dict[str, dict[str, Choice]]) -> str:
    """Return the help for one word.

    Raises:
        ConfigError: it is no key, group or choice.
    """
    key, equals, value = topic.partition("=")
    if key in CHOSEN:
        return "\n".join(_write_choices(key, value, bool(equals), choices[key]))
    groups = list_shared_groups()
    for group in groups:
        if group.name == key.lower():
            return "\n".join([*_format_group(group), ""])
    lines: list[str] = []
    for group in groups:
        for option in group.options:
            if option.key == key or option.key.startswith(f"{key}."):
                lines += _format_option(option)
    if lines:
        return "\n".join([*lines, ""])
    options_by_method = {}
    for name, choice in choices["method"].items():
        options_by_method[name] = describe_choice("method", choice).options
    owners = _find_owners(key, options_by_method)
    if owners is not None:
        names, option = owners
        return "\n".join([*_format_option(option), f"  an option of method={', '.join(names)}", ""])
    known = [option.key for group in groups for option in group.options]
    known += [group.name for group in groups]
    for options in options_by_method.values():
        known += [option.key for option in options]
    raise ConfigError(
        f"--help {topic}", ABSENT, f"no such option{suggest_nearest(key, dict.fromkeys(known))}"
    )


def _write_choices(
    group: str, name: str, is_named: bool, by_name: dict[str, Choice]
) -> Iterator[str]:
    """The choices of a group with their sentences, or the options of one."""
    if not is_named:
        for choice in by_name.values():
            yield _wrap(f"{group}={choice.name}", choice.sentence)
        yield f"\nThe options of one: python train.py --help {group}=NAME"
        return
    if name not in by_name:
        allowed = f"must be one of {', '.join(by_name)}{suggest_nearest(name, by_name)}"
        raise ConfigError(group, name, allowed)
    yield from _format_group(describe_choice(group, by_name[name]))
    yield ""


def _find_owners(
    key: str,
    options_by_method: dict[str, list[Option]],
) -> tuple[list[str], Option] | None:
    """The methods that have an option, and the option with its default in the first of them."""
    names = []
    first = None
    for name, options in options_by_method.items():
        for option in options:
            if option.key == key:
                names.append(name)
                first = first or option
    return (names, first) if first else None


def _format_group(group: Group) -> Iterator[str]:
    yield _wrap("", group.title, indent=0)
    for option in group.options:
        yield from _format_option(option)


def _format_option(option: Option) -> Iterator[str]:
    yield _wrap(f"  {_write_default(option)}", f"{option.sentence} ({option.allowed})")


def _write_default(option: Option) -> str:
    """`key=default`, or the key alone where there is none."""
    return f"{option.key}={option.default}" if option.default else option.key


def _wrap(head: str, text: str, indent: int = KEY_COLUMNS) -> str:
    """A text beside its head, as wide as the terminal; below it where the head is long."""
    width = min(MOST_COLUMNS, shutil.get_terminal_size().columns)
    if not head:
        return textwrap.fill(text, width)
    start = f"{head:<{indent}}"
    if len(head) >= indent:
        start = f"{head}\n{'':{indent}}"
    first_line, _, last_line = start.rpartition("\n")
    body = textwrap.fill(text, width, initial_indent=last_line, subsequent_indent=" " * indent)
    return f"{first_line}\n{body}" if first_line else body


# ---------------------------------------------------------------- as a page
def write_page(choices: dict[str, dict[str, Choice]]) -> str:
    """Return the reference page: every group, and every method with its options, as Markdown."""
    parts = [PAGE_HEAD]
    for group in list_shared_groups():
        parts.append(_write_table("##", group))
    for group_name, by_name in choices.items():
        if group_name != "method":
            parts.append(_list_choices(group_name, by_name))
    for choice in choices["method"].values():
        parts.append(_write_table("##", describe_choice("method", choice)))
    return "\n".join(parts)


def _write_table(level: str, group: Group) -> str:
    title, _, sentence = group.title.partition(": ")
    lines = [f"{level} {title}", "", _capitalize(sentence), ""]
    lines += ["| option | default | may be | |", "|---|---|---|---|"]
    for option in group.options:
        default = f"`{option.default}`" if option.default else ""
        cells = (f"`{option.key}`", default, _escape(option.allowed), _escape(option.sentence))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _list_choices(group: str, by_name: dict[str, Choice]) -> str:
    lines = [f"## {group}=", ""]
    for choice in by_name.values():
        lines.append(f"- `{choice.name}`: {choice.sentence}")
    return "\n".join([*lines, ""])


def _capitalize(sentence: str) -> str:
    first_word = sentence.partition(" ")[0]
    text = sentence
    if first_word.islower():  # a name with capitals of its own, as rsLoRA, is written as it is
        text = sentence[:1].upper() + sentence[1:]
    return text if text.endswith(".") else f"{text}."


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")
