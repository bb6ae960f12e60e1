"""The command `chat`: puts prompts to a saved model, or to two side by side."""

import argparse
import io
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tuneoff.config import ConfigError

MOST_MODELS = 2
# What a folder holds that a model can be loaded from: a run's folder, a model's, an adapter's.
MODEL_FILES = (
    "model/config.json",
    "model/adapter_config.json",
    "config.json",
    "adapter_config.json",
)
PROMPT_SIGN = "> "
NEW = "/new"
GAP = " │ "
LEAST_COLUMNS = 60  # of a terminal in which two answers stand beside each other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chat`."""
    parser.add_argument(
        "folders", nargs="+", type=Path, help="one or two runs' folders, or folders of models"
    )
    parser.add_argument("--prompt", help="put this one prompt, and end")
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="tokens of an answer at most (default: 256)"
    )
    parser.epilog = (
        f"Without --prompt each line is a turn; {NEW} forgets the turns before, Ctrl-D ends."
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Answer until there are no more prompts; returns the exit code."""
    try:
        check_options(options)
        logging.disable(logging.WARNING)
        # Only here, so that a refusal needs no torch.
        from tuneoff.training.saved_model import SavedModel

        models = [SavedModel(folder) for folder in options.folders]
        chat(models, options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse what no answer can come of.

    Raises:
        ConfigError: a folder without a model, more than two, or no room for an answer.
    """
    if len(options.folders) > MOST_MODELS:
        raise ConfigError("chat", options.folders[MOST_MODELS], "is a third folder; two at most")
    if options.max_new_tokens < 1:
        raise ConfigError("--max-new-tokens", options.max_new_tokens, "must be at least 1")
    for folder in options.folders:
        if not folder.is_dir():
            raise ConfigError("chat", folder, "must be a run's folder, or a model's")
        if not any((folder / name).is_file() for name in MODEL_FILES):
            allowed = "holds no saved model: train with save_model=true"
            raise ConfigError("chat", folder, allowed)


def chat(models: Sequence[Any], options: argparse.Namespace) -> None:
    """Put each prompt to every model, each with its own answers before."""
    conversations: list[list[dict]] = [[] for _ in models]
    for prompt in read_prompts(options.prompt):
        if prompt == NEW:
            conversations = [[] for _ in models]
            continue
        answers = []
        for model, conversation in zip(models, conversations, strict=True):
            conversation.append({"role": "user", "content": prompt})
            answer = model.answer(conversation, options.max_new_tokens)
            conversation.append({"role": "assistant", "content": answer})
            answers.append(answer)
        print(format_answers([str(folder) for folder in options.folders], answers))


def read_prompts(prompt: str | None) -> Iterator[str]:
    """Yield the one prompt that was given, or each line of the input that is not blank.

    Bytes that are no text are replaced: no tokenizer takes them, and a conversation would end with them.
    """
    if prompt is not None:
        yield replace_undecodable(prompt)
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            line = input(PROMPT_SIGN if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()


def replace_undecodable(text: str) -> str:
    """A word of the command line with a sign for each byte that Python could not decode, and kept as a surrogate."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def format_answers(names: Sequence[str], answers: Sequence[str]) -> str:
    """Return one answer as it is, two in columns below their folders; below each other where the terminal is narrow."""
    if len(answers) == 1:
        return answers[0]
    columns = shutil.get_terminal_size().columns
    if columns < LEAST_COLUMNS:
        blocks = [f"{name}:\n{text}" for name, text in zip(names, answers, strict=True)]
        return "\n\n".join(blocks)
    width = (columns - len(GAP)) // 2
    left, right = map(partial(_make_column, width=width), names, answers)
    lines = zip_longest(left, right, fillvalue="")
    return "\n".join(f"{one:<{width}}{GAP}{other}".rstrip() for one, other in lines)


def _make_column(name: str, answer: str, width: int) -> list[str]:
    """The lines of an answer below its folder's name and a rule."""
    heading = [*_wrap(name, width), "─" * width]
    return heading + _wrap(answer, width)


def _wrap(text: str, width: int) -> list[str]:
    """The lines of a text, cut to a width; an empty text is one empty line."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        lines += textwrap.wrap(line, width, drop_whitespace=False) or [""]
    return lines
