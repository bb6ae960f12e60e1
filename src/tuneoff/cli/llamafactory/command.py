"""python -m tuneoff import FILE: what becomes of each key of a LLaMA-Factory YAML, the command, and a YAML of ours."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from tuneoff import methods  # noqa: F401 (methods register their options)
from tuneoff.cli.llamafactory.quoting import quote, read_typed
from tuneoff.cli.llamafactory.translate import translate
from tuneoff.cli.llamafactory.translation import Translation
from tuneoff.config import ConfigError

# A choice of a YAML in conf, beside the keys in it.
CHOICES = ("method", "data")
REFUSED = 2  # the exit code
# With which a number begins.
SIGNS_OF_NUMBERS = tuple("+-.0123456789")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command `import`."""
    parser.add_argument("file", type=Path, help="a YAML of LLaMA-Factory, for pt or sft")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the translation of a file; returns the exit code: 2 where a key is refused."""
    try:
        result = translate(options.file)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    print("\n".join(describe(result)))
    return REFUSED if result.refused else 0


def describe(result: Translation) -> list[str]:
    """Return a line for each key, the warnings, the command and the YAML."""
    lines = [line.describe().rstrip() for line in result.lines]
    lines += [f"warning  {sentence}" for sentence in result.warnings]
    if result.refused:
        lines.append(
            f"{len(result.refused)} keys are refused: without them, this would be the command"
        )
    lines += ["", write_command(result), "", write_yaml(result.words)]
    return lines


def write_command(result: Translation) -> str:
    """Return the command that does what the file says."""
    program = ["python", "train.py"]
    if result.launcher:
        program = ["accelerate", "launch", "--config_file", result.launcher, "train.py"]
    return shlex.join([*program, *list_words(result.words)])


def list_words(words: dict[str, str]) -> list[str]:
    """Return words of ours as they are typed, values quoted as Hydra reads them."""
    return [f"{key}={quote(key, value)}" for key, value in words.items()]


def write_choice(value: str) -> str:
    """Return a choice as Hydra has it inside: several sets are one word."""
    return value.strip("[]").replace(",", "+")


def write_yaml(words: dict[str, str]) -> str:
    """Return the words as a YAML of ours: python train.py -cd FOLDER -cn NAME."""
    defaults: list[Any] = ["config"]
    content: dict[str, Any] = {"defaults": defaults}
    for key, value in words.items():
        if key in CHOICES:
            defaults.append({f"override {key}": write_choice(value)})
            continue
        *parents, name = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = read_typed(quote(key, value))
    defaults.append("_self_")
    dumped = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return dumped.rstrip()


class _Dumper(yaml.SafeDumper):
    """Quotes texts that Hydra's YAMLs, unlike YAML 1.1, have for numbers: 1e5."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "'" if value[:1] in SIGNS_OF_NUMBERS else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _represent_text)
