"""What torch is told of a device, and what a user is told: on cards that are made up, since none is here."""

import os
from types import SimpleNamespace

import pytest
import torch

from tuneoff.config import ConfigError, MixedPrecision
from tuneoff.distributed.ranks import _make_accelerator
from tuneoff.jobs.worker import limit_memory
from tuneoff.measure import rates
from tuneoff.models.generators import fork_generators
from tuneoff.record import read_json
from tuneoff.training import device_settings
from tuneoff.training.device_settings import (
    apply_device_settings,
    find_device_warnings,
    refuse_other_precision,
    settle_precision,
)
from tuneoff.training.provenance import collect_provenance

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """No test leaves its settings to others."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.fixture
def card(monkeypatch):
    """`card("Tesla T4", 7, 5)`: the device that torch seems to have."""

    def show(name: str, major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))

    return show


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_attention_that_a_cpu_has_no_backward_pass_of_is_refused(settings, monkeypatch, attention):
    monkeypatch.setattr("tuneoff.config.experiment.find_spec", lambda name: True)
    experiment, _, _ = settings("mixed_precision=bf16", f"model.attention={attention}")
    with pytest.raises(ConfigError, match=f"^model.attention={attention}: needs a CUDA device"):
        apply_device_settings(experiment)


# ---------------------------------------------------------------- precision
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixed_precision=bf16"], "mixed_precision=bf16: must be no or fp16: Tesla T4 has no"),
        (["pure_bf16=true"], "pure_bf16=true: Tesla T4 has no bfloat16; mixed_precision=fp16"),
        (["dtype=bfloat16"], "dtype=bfloat16: Tesla T4 has no bfloat16"),
        (["tf32=true"], "tf32=true: must be false: Tesla T4 has no TF32"),
    ],
)
def test_a_card_without_half_precision_is_told_in_one_line(settings, card, words, message):
    card("Tesla T4", 7, 5)
    with pytest.raises(ConfigError, match=message):
        apply_device_settings(settings("method=full", *words)[0])
    apply_device_settings(settings("method=full", "mixed_precision=fp16")[0])
    card("NVIDIA A10", 8, 6)
    apply_device_settings(settings("method=full", *words)[0])


AUTO = ("method=full", "mixed_precision=auto")


def test_auto_is_bf16_on_a_card_that_has_it_and_what_it_became_is_recorded(
    settings, card, monkeypatch
):
    assert settings(*AUTO)[0].mixed_precision is MixedPrecision.no, "on a CPU"
    monkeypatch.setattr("tuneoff.config.experiment.visible_devices", lambda: ["0"])
    for name, capability, expected in (
        ("Tesla T4", (7, 5), MixedPrecision.no),
        ("NVIDIA A10", (8, 6), MixedPrecision.bf16),
    ):
        card(name, *capability)
        experiment = settle_precision(settings(*AUTO)[0])
        assert experiment.mixed_precision is expected
        apply_device_settings(experiment)
        precision = collect_provenance(experiment, CPU)["precision"]
        assert precision["mixed_precision"] == expected.name
    for words in (["pure_bf16=true"], ["dtype=bfloat16"], ["model.path=tuneoff:tiny"]):
        assert settings(*AUTO, *words)[0].mixed_precision is MixedPrecision.no


def test_a_prediction_takes_auto_for_what_it_is_on_the_card_it_is_for(settings):
    words = [*AUTO, "task=predict"]
    for device, expected in (("h100", "bfloat16"), ("cpu", "float32")):
        experiment, _, _ = settings(*words, f"device={device}")
        assert experiment.settle_precision(has_bfloat16=True).compute_dtype == expected
    assert settings(*words)[0].mixed_precision is MixedPrecision.no


def test_a_run_goes_on_in_the_precision_that_it_began_with(settings):
    experiment, _, _ = settings(*AUTO)
    began = {"provenance": {"precision": {"mixed_precision": "no"}}}
    for earlier in (None, {}, began):
        refuse_other_precision(experiment, earlier)
    began["provenance"]["precision"]["mixed_precision"] = "bf16"
    with pytest.raises(ConfigError, match="mixed_precision=no: is what auto becomes on this dev"):
        refuse_other_precision(experiment, began)


@pytest.mark.parametrize("words", [["tf32=true"], ["mixed_precision=fp16"]])
def test_what_needs_a_gpu_is_refused_on_a_cpu(settings, words):
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        apply_device_settings(settings("method=full", *words)[0])


def test_tf32_is_as_the_setting_says(settings, card, monkeypatch):
    card("NVIDIA H100", 9, 0)
    torch.set_float32_matmul_precision("high")  # as a variable of torch's would
    for value in (True, False):
        apply_device_settings(settings("method=full", f"tf32={value}".lower())[0])
        assert torch.backends.cuda.matmul.allow_tf32 is value
        assert torch.backends.cudnn.allow_tf32 is value
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    apply_device_settings(settings("method=full")[0])
    with pytest.raises(ConfigError, match="NVIDIA_TF32_OVERRIDE=0: contradicts tf32=true"):
        apply_device_settings(settings("method=full", "tf32=true")[0])


def test_the_record_has_what_differs_between_devices(settings, card, monkeypatch):
    """TF32, determinism, the devices that the run saw, and how many jobs may share one."""
    card("NVIDIA H100", 9, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    words = ("method=full", "tf32=true", "deterministic=true", "jobs_per_device=2")
    provenance = collect_provenance(settings(*words)[0], CUDA)
    assert provenance["precision"]["tf32"] and provenance["deterministic"]
    assert provenance["visible_devices"] == ["GPU-1"] and provenance["jobs_per_device"] == 2
    on_cpu = collect_provenance(settings(*words)[0], CPU)
    assert on_cpu["visible_devices"] == [] and on_cpu["jobs_per_device"] == 1


# ---------------------------------------------------------------- one rank of eight
@pytest.fixture
def rank_of_eight(monkeypatch):
    """`rank_of_eight(3, visible=8)`: the fourth process of eight, which sees so many cards; returns whom it asked."""
    asked: list[int] = []

    def become(rank: int, visible: int) -> list[int]:
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")

        def ask(device):
            asked.append(device)
            return (8, 0)

        monkeypatch.setattr(torch.cuda, "get_device_capability", ask)
        return asked

    return become


@pytest.mark.parametrize(("visible", "own"), [(8, 3), (1, 0)])
def test_a_rank_asks_its_own_card(settings, rank_of_eight, visible, own):
    """Also where the launcher shows each rank its own alone, which is then the first."""
    experiment = settings("method=full", "mixed_precision=bf16")[0]
    asked = rank_of_eight(3, visible)
    apply_device_settings(experiment)
    assert asked == [own]


@pytest.mark.parametrize(("visible", "own"), [(8, 3), (1, 0)])
def test_a_rank_limits_its_own_card(rank_of_eight, monkeypatch, visible, own):
    rank_of_eight(3, visible)
    limits = []
    total = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: total)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *limit: limits.append(limit)
    )
    limit_memory(40.0)
    assert limits == [(0.5, own)]


def test_ddp_is_not_told_a_ranks_number_for_its_card(rank_of_eight, monkeypatch):
    monkeypatch.setenv("ACCELERATE_BYPASS_DEVICE_MAP", "")
    monkeypatch.delenv("ACCELERATE_BYPASS_DEVICE_MAP")
    monkeypatch.setattr("accelerate.Accelerator", lambda **settings: settings)
    rank_of_eight(3, visible=1)
    _make_accelerator({})
    assert os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] == "true"


def test_only_the_own_cards_generator_is_kept(rank_of_eight, monkeypatch, recwarn):
    """Of eight cards torch would keep all, and warn at each time."""
    rank_of_eight(3, visible=8)
    kept = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: device)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.append(device))
    before = torch.get_rng_state()
    with fork_generators():
        torch.rand(3)
    assert kept == [3] and torch.equal(torch.get_rng_state(), before)
    assert not recwarn.list


def test_the_matrix_rate_of_another_kind_of_device_is_measured(monkeypatch):
    """As of Apple's, which accelerate takes by itself."""
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: ones(32, 32, dtype=dtype))
    assert rates.measure_matrix_rate(SimpleNamespace(type="mps"), "float32") > 0


# ---------------------------------------------------------------- what is left on the table
@pytest.mark.parametrize("words", [[], ["method=lora"], ["gradient_checkpointing=true"]])
def test_float32_without_tf32_says_what_it_leaves_unused(settings, card, words):
    card("NVIDIA H100", 9, 0)
    [warning] = find_device_warnings(settings(*words)[0], CUDA)
    assert "NVIDIA H100" in warning
    assert all(key in warning for key in ("tf32=true", "mixed_precision=bf16", "pure_bf16=true"))


@pytest.mark.parametrize("words", [["tf32=true"], ["mixed_precision=bf16"], ["pure_bf16=true"]])
def test_nothing_is_said_where_the_matrix_units_are_used_or_missing(settings, card, words):
    card("NVIDIA H100", 9, 0)
    assert find_device_warnings(settings(*words)[0], CUDA) == []
    card("Tesla V100", 7, 0)
    assert find_device_warnings(settings()[0], CUDA) == []


def test_a_torch_that_does_not_see_the_gpu_says_so(run, monkeypatch):
    """In the log and the closing table, which shows a record's warnings."""
    monkeypatch.setattr(device_settings, "count_present_devices", lambda: 1)
    monkeypatch.setattr(device_settings, "visible_devices", lambda: ["0"])
    result = run("method=full", "max_steps=1")
    warning = result["facts"]["warnings"][-1]
    assert warning.startswith("a GPU is here, and this torch (")
    assert "was built without CUDA" in warning and "on the CPU" in warning
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    [warning] = find_device_warnings(None, CPU)
    assert "cannot use it" in warning
    monkeypatch.setattr(device_settings, "visible_devices", list)  # hidden by the user
    assert find_device_warnings(None, CPU) == []


# ---------------------------------------------------------------- the same bits
def test_deterministic_fails_where_an_operation_has_no_such_form(run, monkeypatch, tmp_path):
    """By an operation that has none on a CPU either, put into a step."""
    from tuneoff.training import step

    norm = step.gradient_norm

    def gradient_norm(model, optimizer):
        scattered = torch.zeros(4)
        scattered.put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return norm(model, optimizer)

    monkeypatch.setattr(step, "gradient_norm", gradient_norm)
    assert run("method=full", folder=tmp_path / "any")["status"] == "finished"
    result = run("method=full", "deterministic=true", folder=tmp_path / "same")
    assert result["status"] == "failed"
    assert "does not have a deterministic implementation" in result["error"]["message"]
    assert read_json(tmp_path / "same" / "run.json")["provenance"]["deterministic"]


def test_deterministic_sets_what_cuda_needs(settings, monkeypatch):
    deterministic = settings("method=full", "deterministic=true")[0]
    apply_device_settings(deterministic)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    apply_device_settings(deterministic)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG=:0:0: must be :4096:8 or"):
        apply_device_settings(deterministic)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    apply_device_settings(settings("method=full")[0])
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.parametrize("method", ["full", "lora", "galore", "badam"])
def test_a_deterministic_run_is_the_same_run_on_a_cpu(run, quick_run, tmp_path, method):
    more = ["galore_rank=8"] if method == "galore" else []
    words = (f"method={method}", "test=true", "eval_every=2", "deterministic=true", *more)
    result = run(*words, folder=tmp_path / "same")
    plain, _ = quick_run(method)
    assert [line.get("loss") for line in result["curve"]] == [
        line.get("loss") for line in plain["curve"]
    ]


def test_flash_attention_has_no_float32(settings, monkeypatch):
    monkeypatch.setattr("tuneoff.config.experiment.find_spec", lambda name: SimpleNamespace())
    flash = ("method=full", "model.attention=flash_attention_2")
    with pytest.raises(ConfigError, match="flash_attention_2: has no float32; mixed_precision"):
        settings(*flash)
    for precision in ("mixed_precision=bf16", "pure_bf16=true", "dtype=bfloat16"):
        settings(*flash, precision)


# ---------------------------------------------------------------- attention
def test_cudnn_attention_is_left_out(settings):
    """It plans every new shape anew, and packed rows, too, are padded to the longest of a step."""
    for packing in ("false", "true"):
        torch.backends.cuda.enable_cudnn_sdp(True)
        apply_device_settings(settings(f"packing={packing}")[0])
        assert not torch.backends.cuda.cudnn_sdp_enabled()
