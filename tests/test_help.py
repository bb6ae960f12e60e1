"""Help: a sentence, the default and the allowed values of every option, fast, and a page of the same text."""

import os
import re
import resource
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers import FOUND, METHODS, ROOT

from tuneoff.cli import help as help_texts
from tuneoff.cli.described_options import describe_choice, list_choices, list_shared_groups
from tuneoff.cli.methods import write_methods
from tuneoff.config import ConfigError, Experiment, schemas
from tuneoff.config.descriptions import describe_fields
from tuneoff.record import FAMILIES

GROUPS = (
    "run",
    "model",
    "training",
    "budget",
    "precision",
    "evaluation",
    "benchmarks",
    "keeping",
    "tracking",
    "sweep",
    "limits",
)


@pytest.fixture(autouse=True)
def _as_train(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    monkeypatch.setenv("COLUMNS", "100")


def shown(capsys, *words: str) -> str:
    help_texts.print_help(["--help", *words])
    return " ".join(capsys.readouterr().out.split())


def every_option():
    for group in list_shared_groups():
        yield from group.options
    for choice in list_choices("method", [ROOT / "conf"]).values():
        yield from describe_choice("method", choice).options


def test_no_option_lacks_a_sentence_or_what_it_may_be():
    options = list(every_option())
    assert len({option.key for option in options}) > 100
    for option in options:
        assert option.sentence.endswith(".") and len(option.sentence.split()) > 1, option.key
        assert option.allowed and not option.allowed.startswith("or null"), option.key
    for cls in (Experiment, *(schema.options for schema in schemas().values())):
        assert set(describe_fields(cls)) == {item.name for item in fields(cls)}


def test_every_choice_of_a_method_a_model_and_a_data_set_says_what_it_is():
    for group in ("method", "model", "data"):
        choices = list_choices(group, [ROOT / "conf"])
        assert choices and all(choice.sentence for choice in choices.values())


def test_the_overview_has_every_shared_option_in_its_group(capsys):
    text = shown(capsys)
    for group in list_shared_groups():
        assert group.title in text
        for option in group.options:
            assert f" {option.key}" in text and option.sentence in text
    assert [group.name for group in list_shared_groups()] == list(GROUPS)
    assert all(method in text for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_shows_its_own_options_at_its_own_defaults(method, capsys):
    text = shown(capsys, f"method={method}")
    choice = list_choices("method", [ROOT / "conf"])[method]
    assert choice.sentence in text
    for item in fields(schemas()[choice.schema].options):
        assert f" {item.name}=" in text
    shipped, usual = choice.values["lr"].removeprefix("${embedded:").removesuffix("}").split(",")
    assert f" lr={usual} ({shipped} for tuneoff:tiny) " in text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora_target", "lora_target=all The linear layers that get an adapter"),
        ("lora_target", "an option of method=corda, dora, eva, lora"),
        ("lr=3e-3", "The highest learning rate"),
        ("budget", "max_tokens=null"),
        ("data.columns", "data.columns.completion=null"),
        ("data=gsm8k", "data.path=openai/gsm8k"),
        ("method", "method=dora"),
        ("quantization", "(one of 4bit, 8bit, or null)"),
        (
            "scheduler",
            "(one of cosine, linear, constant, constant_with_warmup, cosine_with_restarts, polynomial, inverse_sqrt, wsd)",
        ),
    ],
)
def test_a_word_is_explained(word, said, capsys):
    assert said in shown(capsys, word)


@pytest.mark.parametrize(
    ("word", "said"),
    [("lora_trget", "did you mean lora_target"), ("method=lra", "must be one of .*badam")],
)
def test_an_unknown_word_is_refused_with_the_nearest(word, said):
    with pytest.raises(ConfigError, match=said):
        help_texts.print_help(["--help", word])


def test_the_pages_are_those_that_the_commands_write():
    """`python -m tuneoff methods > conf/method/METHODS.md` writes that one anew."""
    text = write_methods(ROOT / "conf")
    assert (ROOT / "conf/method/METHODS.md").read_text() == text
    rows = re.findall(r"^\| `(\w+)`( \\\*)? \|", text, re.M)
    assert sorted(name for name, _ in rows) == FOUND
    assert 0 < sum(bool(mark) for _, mark in rows) < len(rows) / 2


def test_help_takes_little_more_than_importing_hydra_and_no_torch():
    """Of processor time, the shortest of three: as a ratio, since machines differ and others use this one."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--help']\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as done:\n    code = done.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    # Modules are compiled once, as at a user's.
    variables = {
        key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
    }

    def spend(program):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (done.returncode, done.stderr) == (0, "")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout

    hydra = []
    help_text = []
    for _ in range(3):
        hydra.append(spend("import hydra")[0])
        seconds, shown = spend(program)
        assert "Budget: how long" in shown
        help_text.append(seconds)
    assert min(help_text) < 3 * min(hydra)


def test_the_reference_page_is_made_of_the_same_text(capsys):
    help_texts.print_help(["--help", "--markdown"])
    page = capsys.readouterr().out
    renew = "python train.py --help --markdown > conf/OPTIONS.md"
    assert page == (ROOT / "conf/OPTIONS.md").read_text(), renew
    for option in every_option():
        assert f"| `{option.key}` |" in page


def test_every_method_says_its_family():
    """By its YAML or its class: a report gives each family a colour, and knows no method's name."""
    families = {}
    for name, choice in list_choices("method", [ROOT / "conf"]).items():
        own_family = schemas()[choice.schema].options.own_family
        families[name] = choice.values.get("family") or own_family
    assert set(families.values()) == set(FAMILIES)
    assert list(families.values()).count("other") < len(families) / 4
