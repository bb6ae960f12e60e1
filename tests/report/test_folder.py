"""The folder of a report: it replaces what an earlier report wrote there, and touches nothing else."""

import pytest
from records import METHODS, load, record, write

from tuneoff.report import write_report
from tuneoff.report.folder import REPORT_LIST, claim_names, remove_others
from tuneoff.report.records import ReportError

SUMMARY = "summary.md"
CHART = "charts/curve_step.svg"
GONE = "charts/gone.pdf"


def test_files_of_a_user_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / SUMMARY).write_text("my notes")
    with pytest.raises(ReportError, match=f"--out .*: no report wrote the {SUMMARY}"):
        claim_names(tmp_path, ["table.md", SUMMARY])
    assert [path.name for path in tmp_path.iterdir()] == [SUMMARY]
    (tmp_path / SUMMARY).unlink()
    (tmp_path / SUMMARY).symlink_to("nowhere")  # a link to nothing is a user's too
    with pytest.raises(ReportError, match=SUMMARY):
        claim_names(tmp_path, [SUMMARY])


def test_only_what_an_earlier_report_wrote_is_replaced_and_removed(tmp_path):
    names = [SUMMARY, CHART, GONE]
    claim_names(tmp_path, names)
    for name in names:
        (tmp_path / name).write_text("ours")
    own = tmp_path / "charts" / "architecture.svg"
    own.write_text("mine")
    claim_names(tmp_path, [SUMMARY, CHART])
    remove_others(tmp_path, [SUMMARY, CHART])
    assert own.read_text() == "mine"
    assert (tmp_path / CHART).exists() and not (tmp_path / GONE).exists()
    (tmp_path / GONE).write_text("mine")  # by now a user's own
    remove_others(tmp_path, [SUMMARY, CHART])
    assert (tmp_path / GONE).exists()


def test_a_list_that_names_other_files_removes_none_of_them(tmp_path):
    out = tmp_path / "out"
    claim_names(out, [SUMMARY])
    outside = [tmp_path / "thesis.pdf", out / "thesis.pdf"]
    for path in outside:
        path.write_text("mine")
    (out / REPORT_LIST).write_text(
        f"../thesis.pdf\nthesis.pdf\n{outside[0]}\ncharts/../thesis.pdf\n"
    )
    remove_others(out, [SUMMARY])
    assert all(path.exists() for path in outside)


def test_a_report_of_before_there_was_a_list_is_known_by_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(write_report, "write_chart", lambda chart, folder, suffix="": [])
    write(tmp_path / "run", record(METHODS[0]))
    out = tmp_path / "out"
    for _ in range(2):
        write_report.write_report(load(tmp_path / "run"), {}, [], out, "title")
    (out / REPORT_LIST).unlink()
    write_report.write_report(load(tmp_path / "run"), {}, [], out, "title")
    (out / REPORT_LIST).unlink()
    (out / "report.html").write_text("<!doctype html>\n<title>my page</title>")
    with pytest.raises(ReportError, match="no report wrote the report.html"):
        write_report.write_report(load(tmp_path / "run"), {}, [], out, "title")


def test_a_name_that_latex_cannot_set_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(write_report, "write_chart", lambda chart, folder, suffix="": [])
    write(tmp_path / "run", record("日本語"))
    out = tmp_path / "out"
    (line,) = write_report.write_report(load(tmp_path / "run"), {}, [], out, "title")
    assert line == "table.tex: what pdfLaTeX cannot set is written as U+number: 日 本 語"
    assert (
        "U+65E5" in (out / "table.tex").read_text() and "日本語" in (out / "table.md").read_text()
    )
