"""The page in a real browser: it renders, sorts, filters, shows a run, and runs no text of a record."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from records import METHODS, comparison, load, program, ranks, record, tuning, write

from tuneoff.report import vega
from tuneoff.report.comparability import find_differences
from tuneoff.report.compare import make_comparisons
from tuneoff.report.page import embed_json
from tuneoff.report.reading import read_records
from tuneoff.report.table import make_columns
from tuneoff.report.write_report import write_report

# Runs in the page when its charts are drawn, and leaves what it saw where --dump-dom shows it.
PROBE = """<script>
const problems = [];
window.addEventListener("error", event => problems.push(event.message));
function column(table, index) {
  return [...table.querySelectorAll("tbody tr")].filter(row => !row.hidden).map(row => row.cells[index].textContent);
}
function look() {
  const first = document.querySelector("main .table"), table = first.querySelector("table"), seen = {};
  const titles = [...table.querySelectorAll("thead th")].map(th => th.textContent);
  const loss = titles.indexOf("Test loss") < 0 ? titles.indexOf("Validation loss") : titles.indexOf("Test loss");
  const sort = table.querySelectorAll("thead button")[loss - 1];
  sort.click(); seen.up = column(table, loss); seen.aria = table.querySelectorAll("th")[loss].getAttribute("aria-sort");
  sort.click(); seen.down = column(table, loss);
  const search = first.querySelector("input[type=search]");
  search.value = FILTER; search.dispatchEvent(new Event("input"));
  seen.filtered = column(table, 1); seen.count = first.querySelector(".count").textContent;
  search.value = ""; search.dispatchEvent(new Event("input"));
  const shown = () => [...table.querySelectorAll("thead th")].filter(th => getComputedStyle(th).display !== "none").length - 1;
  seen.shown = [shown()]; first.querySelector("button.all").click(); seen.shown.push(shown());
  seen.answer = document.querySelector("main .answer").textContent;
  const wide = document.querySelector("figure.wide");
  seen.order = [".answer", "figure.wide", ".table"].map(name => [...document.querySelectorAll("main *")].indexOf(document.querySelector("main " + name)));
  seen.wide = wide ? wide.querySelector("svg.marks").getBoundingClientRect().width : null;
  seen.text = Math.min(...[...document.querySelectorAll(".chart svg.marks text")].map(text => text.getBoundingClientRect().height));
  const ticks = [...table.querySelectorAll("tbody input")].slice(0, 2);
  ticks.forEach(tick => tick.click());
  seen.provenance = document.querySelector("main section").textContent;
  seen.differences = document.querySelector(".differences").textContent;
  table.querySelector("tbody button").click();
  const dialog = document.getElementById("run");
  seen.dialog = dialog.open ? dialog.textContent : null;
  dialog.close();
  const texts = [...document.querySelectorAll("button.link")].filter(button => button.closest("table") !== table);
  texts[texts.length - 1].click(); seen.run = dialog.textContent; dialog.close();
  seen.charts = [...document.querySelectorAll(".chart svg.marks")].map(svg => svg.getBoundingClientRect().height);
  seen.figures = document.querySelectorAll("figure").length;
  seen.foreign = document.querySelectorAll("main script, main img, main b, dialog img, iframe, svg script").length;
  seen.pwned = window.pwned === undefined ? "no" : "yes";
  seen.requests = performance.getEntriesByType("resource").map(entry => entry.name);
  seen.problems = problems;
  const pre = document.createElement("pre");
  pre.id = "outcome"; pre.textContent = JSON.stringify(seen);
  document.body.append(pre);
}
const wait = setInterval(() => {
  if (document.body.dataset.charts === "drawn") { clearInterval(wait); try { look(); } catch (error) {
    document.body.append(Object.assign(document.createElement("pre"), {id: "outcome", textContent: JSON.stringify(
      {crash: String(error), problems})})); } }
}, 50);
</script></body>"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--enable-logging=stderr",
    "--window-size=1366,900",
]


def browse(page: Path, filter_text: str, scratch: Path) -> tuple[dict, list[str]]:
    """What the probe saw in the page, and the lines of the browser's console."""
    probed = scratch / "probed.html"
    before, _, after = page.read_text().rpartition(
        "</body>"
    )  # Vega's own script holds the word, too
    probed.write_text(before + PROBE.replace("FILTER", json.dumps(filter_text)) + after)
    browser = program("chromium", "chromium-browser", "google-chrome")
    done = subprocess.run(
        [
            browser,
            *FLAGS,
            "--virtual-time-budget=20000",
            f"--user-data-dir={scratch / 'profile'}",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    plain = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(plain), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def report(out: Path, *folders: Path) -> Path:
    runs, skipped = read_records(folders)
    made = make_comparisons(runs, None, False)
    write_report(
        made,
        find_differences([each.runs for each in made]) if len(made) > 1 else {},
        skipped,
        out,
        "a title",
    )
    return out / "report.html"


def number(text: str) -> float:
    return float(text.split(" ")[0].replace("−", "-"))


def test_the_page_renders_sorts_filters_and_shows_a_run(tmp_path):
    folders = comparison(tmp_path / "compare"), tuning(tmp_path / "tune"), ranks(tmp_path / "ranks")
    page = report(tmp_path / "out", *folders)
    seen, console = browse(page, f"{METHODS[0]} 1e-3", tmp_path)
    assert "crash" not in seen, seen
    assert (seen["problems"], console, seen["requests"]) == ([], [], [])
    losses = [number(text) for text in seen["up"] if text != "–"]
    assert len(losses) > 20 and losses == sorted(losses) and seen["aria"] == "ascending"
    assert [number(text) for text in seen["down"] if text != "–"] == sorted(losses, reverse=True)
    assert seen["up"][-1] == seen["down"][-1] == "–"  # what has no figure stays below
    assert seen["filtered"] and all(METHODS[0] in method for method in seen["filtered"])
    assert seen["count"].startswith(f"{len(seen['filtered'])} of ")
    assert len(seen["charts"]) == seen["figures"] >= 8 and all(
        height > 100 for height in seen["charts"]
    )
    # What all of the compared rows have, and not what one method alone has.
    assert "lr" in seen["differences"] and "some_rank" not in seen["differences"]
    columns = len(make_columns(load(*folders)[0]))
    assert seen["shown"] == [8, columns] and columns > 12
    # The answer, then one chart as wide as the page, then the table; type of a book's size at least.
    assert seen["order"] == sorted(seen["order"]) and seen["answer"].startswith("On docstrings")
    assert seen["wide"] > 700 and seen["text"] >= 12
    for said in (
        "git, commit26bcf62e",
        "git, dirtyFalse",
        "versions, torch2.13.0",
        "hardware, cpuAMD EPYC",
        "data, fingerprinta9ac060482e10c4f",
    ):
        assert said in seen["provenance"]
    for said in ("Command", "python train.py method=", "Config", "batch_size: 8"):
        assert said in seen["dialog"]


EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1><b>&quot;'"


def test_no_text_of_a_record_becomes_markup(tmp_path):
    """Method, option, value, command, error, metric, axis and chart titles, folder, provenance: all hostile."""
    for seed in range(3):
        for rank in (8, 64):
            content = record(EVIL, seed, **{EVIL: rank, "note": "<!--<script>"})
            content["metrics"] = {EVIL: 0.1 * seed}
            content["memory"]["measure"] = EVIL
            content["command"] = ["python", EVIL]
            content["provenance"]["data"]["template"] = EVIL
            write(tmp_path / "runs" / f"<img src=x onerror=window.pwned=1>{seed}{rank}", content)
    failed = record("zz" + EVIL, status="failed")
    failed["error"] = {"type": EVIL, "message": EVIL, "traceback": EVIL}
    write(tmp_path / "runs" / "failed", failed)
    write(tmp_path / "runs" / "<b>bad", {"not": "ours"})
    page = report(tmp_path / "out", tmp_path / "runs")
    assert "<img src=x" not in page.read_text() and "<b>&quot;" not in page.read_text()
    seen, console = browse(page, "pwned", tmp_path)
    assert "crash" not in seen, seen
    assert (seen["pwned"], seen["foreign"], seen["problems"], console) == ("no", 0, [], [])
    assert EVIL in seen["dialog"] and EVIL in seen["run"] and seen["figures"] >= 6


def test_embedded_json_ends_no_script():
    text = embed_json({"title": "</script><!--", "not a number": float("nan")})
    assert "<" not in text and json.loads(text) == {"title": "</script><!--", "not a number": None}


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> list[str]:
    """Vega's bundle is a short text here; a line is added each time that it is made."""
    made: list[str] = []

    def make() -> str:
        made.append("é")
        return "é\n" * 100

    monkeypatch.setattr(vega.vl_convert, "javascript_bundle", make)
    monkeypatch.setenv("TUNEOFF_CACHE", str(tmp_path / "cache"))
    return made


def load_again() -> str:
    vega.load_vega.cache_clear()
    return vega.load_vega()


def test_vega_is_bundled_once_where_it_can_be_kept(tmp_path, monkeypatch, bundled):
    assert [load_again(), load_again()] == ["é\n" * 100] * 2 and len(bundled) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNEOFF_CACHE", str(tmp_path / "file"))  # a folder that cannot be
    assert load_again() == "é\n" * 100 and len(bundled) == 2


@pytest.mark.parametrize("damage", [b"", b"\xff", b"// sha256 0\n", "half", "changed"])
def test_a_damaged_vega_file_is_made_anew(tmp_path, bundled, damage):
    """Empty, no text, torn or changed: a page without charts would come of it, with exit code 0, for ever."""
    load_again()
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    if damage == "half":
        damage = whole[: len(whole) // 2]
    elif damage == "changed":
        damage = whole.replace(b"\n\xc3", b"\nE", 1)
    path.write_bytes(damage)
    assert load_again() == "é\n" * 100 and len(bundled) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("words", ["src=", "href=", "@import", "url("])
def test_the_page_refers_to_no_other_file(tmp_path, words):
    write(tmp_path / "run", record(METHODS[0]))
    page = report(tmp_path / "out", tmp_path / "run").read_text()
    without_vega = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert words not in without_vega
    assert "Content-Security-Policy" in page
