"""The comparability guard: what may stand in one table, and what the report says where it may not."""

import json

import pytest
from records import METHODS, load, prediction, record, write

from tuneoff.report.caption import write_caption
from tuneoff.report.comparability import find_differences
from tuneoff.report.records import ReportError
from tuneoff.report.table import make_columns


def change(content: dict, path: str, value) -> dict:
    *parents, key = path.split("/")
    place = content
    for parent in parents:
        place = place[parent]
    place[key] = value
    return content


def two_kinds(root, path: str, value) -> None:
    for seed in range(3):
        write(root / f"a{seed}", record(METHODS[0], seed))
        write(root / f"b{seed}", change(record(METHODS[1], seed), path, value))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("provenance/data/fingerprint", "other", "data"),
        ("provenance/base_weights_hash", "other", "base weights"),
        ("budget/kind", "max_tokens", "budget kind"),
        ("budget/value", 300, "budget value"),
        ("provenance/hardware/gpu", "NVIDIA H100", "hardware: gpu"),
        ("provenance/hardware/cpu", "other", "hardware: cpu"),
        ("provenance/versions/torch", "2.12.0", "versions: torch"),
        ("provenance/threads", 8, "threads"),
        ("provenance/num_processes", 2, "processes"),
        ("provenance/sharding", "zero3", "sharding"),
        ("config/model/path", "other", "model"),
        ("config/model/revision", "v1", "model"),
        ("config/neftune_alpha", 5.0, "NEFTune"),
        ("config/compile", True, "compiled"),
    ],
)
def test_records_that_differ_are_split_and_the_field_is_named(tmp_path, path, value, name):
    two_kinds(tmp_path, path, value)
    made = load(tmp_path)
    assert [len(each.rows) for each in made] == [1, 1]
    found = find_differences([each.runs for each in made])
    assert list(found) == [name] and len(set(found[name])) == 2
    with pytest.raises(ReportError, match=f"differ in {name}"):
        load(tmp_path, strict=True)


def test_models_without_a_path_are_told_apart_by_their_config(tmp_path):
    """The models that a prediction builds; and what only one side knows is not said to differ."""
    built = {
        "name": "llama_60m",
        "path": None,
        "config": {"hidden_size": 512, "model_type": "llama"},
    }
    wider = {**built, "config": {"hidden_size": 768, "model_type": "llama"}}
    write(tmp_path / "run", record(METHODS[0]))
    for index, model in enumerate((built, wider)):
        write(tmp_path / f"foreseen{index}", prediction(METHODS[0], model=model), "prediction.json")
    made = load(tmp_path)
    assert [(row.name, len(row.runs)) for each in made for row in each.rows] == [
        (METHODS[0], 1),
        (METHODS[0], 0),
        (METHODS[0], 0),
    ]

    def why(*places: int) -> dict:
        return find_differences([made[place].guarded_runs for place in places])

    assert {key: set(values) for key, values in why(0, 1).items()} == {
        "model": {"tuneoff:tiny", "llama_60m"}
    }
    assert {key: set(values) for key, values in why(1, 2).items()} == {
        "model: hidden_size": {"512", "768"}
    }


def test_the_same_method_and_setting_is_not_averaged_over_two_budgets(tmp_path):
    for seed in range(4):
        write(tmp_path / str(seed), record(METHODS[0], seed, steps=200 if seed % 2 else 300))
    assert [len(row.finished) for each in load(tmp_path) for row in each.rows] == [2, 2]


@pytest.mark.parametrize(
    ("path", "value", "title", "shown"),
    [
        ("provenance/precision/dtype", "bfloat16", "Precision", {"float32", "bfloat16"}),
        ("config/quantization", "4bit", "Quantisation", {"none", "4bit"}),
        ("config/max_grad_norm", 1.0, "Gradient clip", {"none", "1.0"}),
        ("throughput/tokens_seen", 65_000, "Tokens seen", {"130 k", "65.0 k"}),
    ],
)
def test_what_a_method_implies_is_a_labelled_column(tmp_path, path, value, title, shown):
    two_kinds(tmp_path, path, value)
    (made,) = load(tmp_path, strict=True)
    (column,) = [column for column in make_columns(made) if column.title == title]
    assert {cell.text for cell in column.cells} == shown


@pytest.mark.parametrize(
    ("path", "title", "shown"),
    [
        ("provenance/precision/dtype", "Precision", ["float32", "bfloat16"]),
        ("config/quantization", "Quantisation", ["none", "4bit"]),
    ],
)
def test_a_type_of_weights_stands_beside_another_though_its_weights_hash_differently(
    tmp_path, path, title, shown
):
    for seed in range(3):
        write(tmp_path / f"a{seed}", record(METHODS[0], seed))
        other = change(record(METHODS[1], seed), path, shown[1])
        write(tmp_path / f"b{seed}", change(other, "provenance/base_weights_hash", "another hash"))
    (made,) = load(tmp_path, strict=True, baseline=METHODS[0])
    assert made.difference(made.qualities[0], made.rows[1]).n == 3
    (column,) = [column for column in make_columns(made) if column.title == title]
    assert [cell.text for cell in column.cells] == shown


def test_random_weights_may_differ_between_seeds_but_not_between_methods_of_a_seed(tmp_path):
    for seed in range(3):
        for method in METHODS[:2]:
            content = change(
                record(method, seed), "provenance/base_weights_hash", f"weights {seed}"
            )
            content["config"]["model"] = {**content["config"]["model"], "pretrained": False}
            write(tmp_path / f"{method}{seed}", content)
    assert len(load(tmp_path, strict=True)) == 1
    spoiled = json.loads((tmp_path / f"{METHODS[0]}1" / "result.json").read_text())
    write(tmp_path / f"{METHODS[0]}1", change(spoiled, "provenance/base_weights_hash", "others"))
    assert len(load(tmp_path)) > 1


def test_a_run_that_failed_before_its_data_was_known_stays_a_row(tmp_path):
    for seed in range(3):
        write(tmp_path / f"a{seed}", record(METHODS[0], seed))
    failed = record(METHODS[1], status="failed")
    failed["provenance"] = {
        key: failed["provenance"][key] for key in ("git", "versions", "hardware")
    }
    write(
        tmp_path / "b",
        {
            key: value
            for key, value in failed.items()
            if key not in ("parameters", "curve", "memory")
        },
    )
    (made,) = load(tmp_path, strict=True)
    assert [row.outcome for row in made.rows] == ["finished 3", "failed 1"]


def test_a_baseline_that_a_table_lacks_is_named_as_it_is_written(tmp_path):
    write(tmp_path / "a", record("MyFull"))
    for method in METHODS[:2]:
        write(tmp_path / method, record(method, steps=300))
    made = load(tmp_path, baseline="MyFull")
    assert "No finished run of the baseline MyFull." in write_caption(made[0])


def test_a_finished_run_that_does_not_say_where_it_ran_is_noted(tmp_path):
    for seed in range(3):
        write(tmp_path / f"a{seed}", record(METHODS[0], seed))
        bare = record(METHODS[1], seed)
        bare["provenance"].pop("hardware")
        bare.pop("budget")
        write(tmp_path / f"b{seed}", bare)
    (made,) = load(tmp_path)
    (note,) = [note for note in made.notes if note.startswith("Not known to be comparable")]
    fields = "budget kind, budget value, hardware"
    assert note.endswith(f"since records do not say their {fields}: {METHODS[1]}.")


def test_other_code_is_noted_and_not_split(tmp_path):
    two_kinds(tmp_path, "provenance/git/commit", "f86bf0a")
    (made,) = load(tmp_path, strict=True)
    assert any("git commit" in note for note in made.notes)
