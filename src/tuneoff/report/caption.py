"""Captions: what a reader must know to believe a table. What ran where, how it was judged, what the figures are."""

from collections.abc import Iterator
from itertools import compress

from tuneoff.report import stats
from tuneoff.report.caption_costs import describe_measurement, describe_prediction, describe_serving
from tuneoff.report.cells import show_digits
from tuneoff.report.compare import Comparison
from tuneoff.report.labels import LABELS, TOKENS_SEEN
from tuneoff.report.power import measure_power
from tuneoff.report.ranking import find_differing
from tuneoff.report.records import as_number
from tuneoff.report.rows import first_known
from tuneoff.report.table import make_columns
from tuneoff.report.text import cut_name, format_range, shorten_list


def write_caption(comparison: Comparison) -> str:
    """Return what the figures are, how they were judged, and what all rows share."""
    sentences = [
        *_warn_of_other_rates(comparison),
        *_describe_subject(comparison),
        *_describe_budget(comparison),
        *_describe_shared(comparison),
        *_describe_judgement(comparison),
        *_describe_gaps(comparison),
        *_describe_seeds(comparison),
        *_describe_diverged(comparison),
        *describe_measurement(comparison),
        *describe_serving(comparison),
        *describe_prediction(comparison),
        *comparison.notes,
    ]
    return " ".join(sentences)


def write_short_caption(comparison: Comparison) -> str:
    """Return the caption of a table that a paper's text explains: what ran, how many seeds, and what the marks mean."""
    seeds = {len(row.finished) for row in comparison.rows if row.finished}
    sentences = [*_describe_names(comparison), *_describe_budget(comparison)]
    if max(seeds, default=0) >= stats.LEAST_SEEDS:
        sentences.append(f"Mean ± 95 % interval over {format_range(seeds)} seeds.")
        if comparison.baseline is not None:
            name = comparison.baseline.name
            sentences.append(f"*: differs from {name} (paired t, Holm, p < 0.05).")
    if any(verdict.bold.any() for verdict in comparison.verdicts):
        sentences.append("Bold: the best, and what cannot be told from it.")
        sentences += _list_untested(comparison)
    sentences += _describe_gaps(comparison)
    sentences += _describe_seeds(comparison)
    sentences += _describe_diverged(comparison)
    return " ".join(sentences)


def _describe_names(comparison: Comparison) -> Iterator[str]:
    """The model and the data."""
    model = first_known(comparison.rows, "config.model.name")
    data = first_known(comparison.rows, "config.data.name")
    if model and data:
        yield f"{cut_name(str(model))} on {cut_name(str(data))}."


def _warn_of_other_rates(comparison: Comparison) -> Iterator[str]:
    """That methods are not ranked by rates that nobody tuned, or that are not those that were."""
    if len(comparison.methods) < 2:
        return
    if any(row.has_default_rate for row in comparison.rows):
        yield (
            "This table ranks no methods: a rate marked (default) was not chosen by a tuning sweep, and the rate "
            "decides more than the method."
        )
    if any(row.tuned_rate is not None for row in comparison.rows):
        yield "This table ranks no methods: a rate marked (not the tuned one) was given in its place."


def _describe_subject(comparison: Comparison) -> Iterator[str]:
    """The model, the data and the machine, which the guard has made one."""
    model = first_known(comparison.rows, "config.model.name")
    data = first_known(comparison.rows, "config.data.name")
    hardware = first_known(comparison.rows, "provenance.hardware")
    threads = first_known(comparison.rows, "provenance.threads")
    text = ""
    if model and data:
        text = f"Model {cut_name(str(model))}, data {cut_name(str(data))}"
    if isinstance(hardware, dict):
        processor = hardware.get("gpu") or hardware.get("cpu")
        cores = cut_name(str(hardware.get("cores")))
        text += f", on {cut_name(str(processor))}, {cores} cores"
        if threads:
            text += f", threads a job: {cut_name(str(threads))}"
    if text:
        yield f"{text}."


def _describe_budget(comparison: Comparison) -> Iterator[str]:
    kind = first_known(comparison.rows, "budget.kind")
    value = as_number(first_known(comparison.rows, "budget.value"))
    if kind and value is not None:
        yield f"Budget: {cut_name(str(kind))} = {value:,g}."


def _describe_shared(comparison: Comparison) -> Iterator[str]:
    """What a method implies, as far as all rows agree in it."""
    shared = []
    for label in LABELS:
        if label.key == TOKENS_SEEN or label.differs(comparison.rows):
            continue
        text = label.of_row(comparison.rows[0])
        if text not in ("", "none"):
            shared.append(f"{label.title.lower()} {text}")
    if shared:
        listing = ", ".join(shared)
        yield f"The same for all rows: {listing}."


def _describe_judgement(comparison: Comparison) -> Iterator[str]:
    """How the statistics were done, as far as the seeds allow any."""
    seeds = {len(row.finished) for row in comparison.rows if row.finished}
    enough = max(seeds, default=0) >= stats.LEAST_SEEDS
    if enough:
        count = format_range(seeds)
        yield f"Mean ± 95 % Student-t interval (no bootstrap) over {count} finished seeds."
    examples = _count_bootstrapped(comparison)
    if examples:
        count = format_range(examples)
        yield (
            f"In brackets: 95 % percentile bootstrap over the {count} examples that were scored, of the "
            "seeds' mean: what other examples would change, not other seeds."
        )
    yield from _describe_baseline(comparison, enough)
    yield from _describe_power(comparison)
    if any(verdict.bold.any() for verdict in comparison.verdicts):
        yield "Bold: the best, and all that cannot be told from it (paired t, Holm over all pairs)."
        yield from _list_untested(comparison)
    elif enough and len(comparison.rows) > 1:
        yield f"Nothing is bold: {_explain_no_best(comparison)}."


def _explain_no_best(comparison: Comparison) -> str:
    """Why no row is the best in any measure."""
    against = [verdict.p for verdict in comparison.verdicts]
    if comparison.baseline is not None and not find_differing(against):
        return (
            "no row can be told from the baseline at Holm-adjusted p < 0.05, so which is best was "
            "not tested"
        )
    if all(verdict.best is None for verdict in comparison.verdicts):
        return "no test says which row is best"
    return "no row can be told from the best at Holm-adjusted p < 0.05"


def _describe_seeds(comparison: Comparison) -> Iterator[str]:
    """Whose means are of fewer seeds than others', so that they are not to be compared by them."""
    for quality in comparison.qualities[:1]:
        seeds: set[int] = set()
        for row in comparison.rows:
            seeds.update(row.values_by_seed(quality.path))
        lacking = []
        for row in comparison.rows:
            count = len(row.values_by_seed(quality.path))
            if 0 < count < len(seeds):
                lacking.append(f"{row.name} ({count} of {len(seeds)})")
        if lacking:
            yield (
                "Rows without every seed, so that means are not comparable where seeds are harder or easier (Δ and "
                f"tests are of common seeds): {shorten_list(lacking)}."
            )


def _list_untested(comparison: Comparison) -> Iterator[str]:
    """Which rows no test could compare with the best, so that they are not bold and yet not told from it."""
    for quality, verdict in zip(comparison.qualities, comparison.verdicts, strict=True):
        names = [row.name for row in compress(comparison.rows, verdict.untested)]
        if names:
            yield (
                f"Not tested against the best in {quality.title.lower()}, for want of {stats.LEAST_SEEDS} common "
                f"seeds or since all differences are the same: {shorten_list(names)}."
            )


def _describe_gaps(comparison: Comparison) -> Iterator[str]:
    """Which means are over fewer values than seeds have finished."""
    gaps = []
    for column in make_columns(comparison):
        for row, cell in zip(comparison.rows, column.cells, strict=True):
            count = cell.figures.get("n")
            finished = len(row.finished)
            if isinstance(count, int) and 0 < count < finished:
                gaps.append(f"{column.title} of {row.name} ({count} of {finished})")
    if gaps:
        yield f"Over fewer values than seeds have finished: {shorten_list(gaps)}."


def _describe_diverged(comparison: Comparison) -> Iterator[str]:
    """Whose means are of the seeds that survived: a diverged one is worse than any loss, and in no mean."""
    parts = []
    for row in comparison.rows:
        if row.finished and row.diverged:
            parts.append(f"{row.name} ({row.diverged} of {len(row.runs)})")
    if parts:
        yield f"Seeds that diverged are in no mean or test, which favours their rows: {shorten_list(parts)}."


def _count_bootstrapped(comparison: Comparison) -> set[int]:
    """The numbers of examples that any bootstrap interval is over."""
    counts = set()
    for quality in comparison.qualities:
        for row in comparison.rows:
            scores = comparison.example_scores(quality, row)
            if scores is not None and scores.min() < scores.max():
                counts.add(len(scores))
    return counts


def _describe_baseline(comparison: Comparison, enough: bool) -> Iterator[str]:
    """What the differences are taken from, and what their star means; or why there are none."""
    reason = comparison.baseline_reason
    if comparison.baseline is None:
        if reason:
            yield f"{reason[:1].upper()}{reason[1:]}."
        return
    text = f"Δ: difference to the baseline {comparison.baseline.name} ({reason}) at the same seed"
    if enough:
        text += (
            "; its mean with the paired-t interval, * where it differs at Holm-adjusted p < 0.05 over all Δ of this "
            "table"
        )
    yield f"{text}."


def _describe_power(comparison: Comparison) -> Iterator[str]:
    """What difference to the baseline the seeds could have shown, by each row's own paired spread."""
    for quality in comparison.qualities[:1]:
        smallest = [power.smallest for power in measure_power(comparison, quality)]
        if not smallest:
            continue
        low = show_digits(min(smallest))
        high = show_digits(max(smallest))
        span = low if low == high else f"{low} to {high}, by the row"
        yield (
            f"With 80 % power these seeds show a difference of {span} in {quality.title.lower()}; "
            "`python -m tuneoff power` says how many a smaller one needs."
        )
