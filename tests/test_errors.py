"""What counts as bad input and what as a fault of ours; the sentences themselves are tested in test_refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tuneoff import config
from tuneoff.cli.allowed_values import describe_allowed, find_field, is_boolean
from tuneoff.cli.error_lines import error_chain, explain_error
from tuneoff.cli.main import cut_long_words, report_error
from tuneoff.config import binding
from tuneoff.methods.badam import BAdam
from tuneoff.methods.galore import GaLore
from tuneoff.methods.lora import LoRA
from tuneoff.record import Busy


def raised(
    *overrides: str,
    attribute: str | None = None,
    folder: Path = ROOT / "conf",
    name: str = "config",
) -> Exception:
    """What composing (and then reading a key) raises."""
    with (
        pytest.raises(Exception) as caught,
        initialize_config_dir(str(folder), version_base="1.3"),
    ):
        cfg = compose(name, overrides=list(overrides))
        getattr(cfg, attribute or "method")
    return caught.value


def test_the_value_is_taken_from_the_point_of_a_grid_not_from_the_command_line():
    assert (
        explain_error(raised("lr=abc"), ["-m", "lr=1e-3,abc"])
        == "lr=abc: must be a number, above 0"
    )


@pytest.mark.parametrize(
    ("body", "written", "line"),
    [
        ("lr: abc", "lr=1e-3", "lr=abc: must be a number, above 0"),
        ("lr: null", "lr=1e-3", "lr=null: must be a number, above 0"),
        ("lr: [a, true]", "lr=1e-3", "lr=[a,true]: must be a number, above 0"),
        ("batch_size: true", "batch_size=8", "batch_size=true: must be an integer, at least 1"),
        (
            "data: {limit: x}",
            "data.limit=8",
            "data.limit=x: must be an integer, at least 1, or null",
        ),
    ],
)
def test_a_wrong_value_of_a_file_is_not_blamed_on_the_command_line(tmp_path, body, written, line):
    (tmp_path / "my.yaml").write_text(f"defaults: [config, _self_]\n{body}\n")
    error = raised(written, f"hydra.searchpath=[{ROOT / 'conf'}]", folder=tmp_path, name="my")
    assert explain_error(error, [written]) == line


def test_what_an_interpolation_comes_to_is_not_blamed_on_a_file():
    error = raised("lr=${tracker}", attribute="lr")
    assert explain_error(error, ["lr=${tracker}"]).startswith("lr=${tracker}: ")


def test_a_boolean_is_known_by_its_key():
    for key in ("packing", "model.liger", "forgetting.data.streaming", "use_dora"):
        assert is_boolean(key)
    assert is_boolean("data.sets.mine.streaming") and is_boolean("forgetting.data.sets.x.end_token")
    for key in (
        "lr",
        "model",
        "model.path",
        "data.sets.mine",
        "streaming",
        "nope",
        "hydra.verbose",
    ):
        assert not is_boolean(key)


def test_an_error_of_ours_is_found_behind_whatever_wraps_it():
    try:
        try:
            raise config.ConfigError("lr", 0, "must be above 0")
        except config.ConfigError as error:
            raise UserWarning("Callback") from error
    except UserWarning as wrapped:
        assert explain_error(wrapped, []) == "lr=0: must be above 0"
    assert (
        explain_error(Busy("x: another process is training here"), [])
        == "x: another process is training here"
    )


def test_reading_a_key_that_is_not_there_is_a_fault_of_ours():
    error = raised(attribute="no_such_key")
    assert type(error).__name__ == "ConfigAttributeError" and explain_error(error, []) is None


@pytest.mark.parametrize(
    "fault", [AttributeError("x"), KeyError("x"), ValueError("x"), OSError(2, "x")]
)
def test_other_errors_are_faults_of_ours(fault):
    try:
        raise fault
    except Exception as error:
        assert explain_error(error, []) is None


def test_a_fault_in_a_resolver_of_ours_is_not_blamed_on_the_config(monkeypatch):
    monkeypatch.setattr(binding, "read_settings", lambda task: task.no_such_key)
    cfg = OmegaConf.create({"name": "${identity:}", "hydra": {"overrides": {"task": []}}})
    with pytest.raises(Exception) as caught:
        _ = cfg.name
    assert explain_error(caught.value, []) is None


def test_output_reaches_a_terminal_that_knows_ascii_alone():
    script = (
        "from tuneoff.record.console import prepare_console\nprepare_console()\n"
        "print('1.0 → 0.5 «x» Ж')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "1.0 -> 0.5 <<x>> \\u0416\n"), done.stderr


def test_a_run_outlasts_whoever_reads_its_output():
    """`2>&1 | tee run.log`: Ctrl-C ends tee too, and the run failed on its next line, without a checkpoint."""
    script = (
        "import signal, sys\n"
        "from tuneoff.distributed.stop import StopRequest, StopSignal\n"
        "from tuneoff.record.console import prepare_console\nprepare_console()\n"
        "sys.stdin.read()\n"
        "print('x' * 100_000, flush=True)\nprint('y', file=sys.stderr, flush=True)\n"
        "try:\n    StopRequest().set(signal.SIGINT)\nexcept StopSignal:\n    sys.exit(7)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.wait() == 7


def test_what_is_printed_is_out_at_once_where_nothing_is_buffered():
    script = (
        "import os, sys\nfrom tuneoff.record.console import prepare_console\nprepare_console()\n"
        "print('now')\nprint('too', file=sys.stderr)\nos._exit(0)  # which writes nothing more\n"
    )
    done = subprocess.run([sys.executable, "-u", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("now\n", "too\n")


def test_a_long_word_is_cut_in_a_line_of_errors(capsys):
    assert report_error(config.ConfigError("lr", "x" * 5000, "must be a number"), []) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: lr=xxx") and line.endswith(": must be a number\n")
    assert len(line) < 450
    assert cut_long_words("é" * 5000) == "é" * 100 + "…" + "é" * 100


def test_causes_are_listed_outermost_first():
    try:
        try:
            int("x")
        except ValueError:
            raise RuntimeError from None
    except RuntimeError as error:
        assert [type(cause).__name__ for cause in error_chain(error)] == [
            "RuntimeError",
            "ValueError",
        ]


def test_expectations_come_from_types_and_ranges():
    assert (
        describe_allowed(GaLore, "galore_proj_type")
        == "must be one of std, reverse_std, right, left, full"
    )
    assert describe_allowed(LoRA, "lora_alpha") == "must be a number, above 0, or null"
    assert (
        describe_allowed(BAdam, "badam_switch_interval")
        == "must be an integer, at least 1, or -1 to never switch"
    )
    assert describe_allowed(config.Data, "limit") == "must be an integer, at least 1, or null"
    assert describe_allowed(LoRA, "lora_target") is None and describe_allowed(dict, "x") is None


def test_fields_are_found_for_every_method_and_group():
    assert find_field("galore_target").metadata["names"] and find_field("tags").metadata["names"]
    assert find_field("data.limit").name == "limit"
    assert find_field("data.nope") is None and find_field("hydra.verbose") is None
