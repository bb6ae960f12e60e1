"""Records as the loop really writes them: the generator of the other tests may drift from it, this one cannot."""

import pytest
from records import METHODS, load

from tuneoff.report import write_tables
from tuneoff.report.charts import make_charts
from tuneoff.report.table import make_columns


@pytest.mark.slow
def test_real_runs_in_two_precisions_stand_in_one_table(run, tmp_path):
    first, second = METHODS[0], METHODS[4]
    for seed in range(3):
        run(
            f"method={first}",
            "pure_bf16=true",
            f"seed={seed}",
            "test=true",
            folder=tmp_path / "runs" / f"a{seed}",
        )
        run(f"method={second}", f"seed={seed}", "test=true", folder=tmp_path / "runs" / f"b{seed}")
    (made,) = load(tmp_path / "runs", strict=True, baseline=second)
    found = {column.title: [cell.text for cell in column.cells] for column in make_columns(made)}
    assert found["Precision"] == ["bfloat16", "float32"] and found["Seeds"] == ["3 of 3", "3 of 3"]
    assert all("±" in text for text in found["Test loss"] + found["Training (s)"])
    assert all(float(text) > 0 for text in found["Peak train (GiB)"])
    assert not any("batches" in note for note in made.notes)
    names = {chart.name for chart in make_charts(made)}
    assert {"quality_memory", "curve_step", "curve_second", "memory_breakdown"} <= names
    assert write_tables.write_csv([made]).count("\n") == 3
