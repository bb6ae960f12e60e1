"""Time forecasts: hours and memory of a sweep's jobs on a device that is not there, predicted once for each setting."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tuneoff.jobs import supervisor
from tuneoff.jobs.devices import Share, assign_devices
from tuneoff.jobs.failures import JobFailed
from tuneoff.jobs.work import PredictWork
from tuneoff.record import NOT_PREDICTED, PREDICTION, read_json
from tuneoff.record.ranges import UNKNOWN_HOURS
from tuneoff.sweeps.grids import find_varied_keys, override_keys
from tuneoff.sweeps.parts import Part
from tuneoff.sweeps.plan import Point
from tuneoff.sweeps.progress import format_duration, label_job

# Settings in which jobs of one forecast may differ: they change neither time nor memory, or are not those of time.
NOT_TIMED = {"seed", *NOT_PREDICTED} - {"epochs", "max_steps", "max_tokens", "max_seconds", "tf32"}


def forecast_sweep(parts: Sequence[Part]) -> Iterator[str]:
    """Yield a line for each setting of the jobs of which parts are to be trained, and one for all parts together."""
    groups: dict[tuple[str, ...], dict[Path, Point]] = defaultdict(dict)
    shares: dict[tuple[str, ...], float] = defaultdict(float)
    for part in parts:
        point = part.point
        if point.prediction is not None:
            setting = _name_setting(point)
            groups[setting][point.folder] = point
            shares[setting] += part.share
    totals = [0.0, 0.0]
    unknown = 0
    device = None
    varied = find_varied_keys([list(setting) for setting in groups])
    for setting, members in groups.items():
        label = label_job(setting, varied) if varied else "each job"
        work = next(iter(members.values())).prediction
        assert work is not None
        prediction = predict_beside(work)
        if isinstance(prediction, str):
            unknown += len(members)
            yield f"  {label}: not predicted: {prediction}"
            continue
        time = prediction["time"]
        device = time["device"]
        needed = f"needs {prediction['needed_gib']:.2f} GiB"
        jobs = f"{len(members)} jobs"
        if time["hours"] is None:
            unknown += len(members)
            yield f"  {label}: {UNKNOWN_HOURS}; {needed} ({jobs})"
            continue
        whole = "each" if shares[setting] == len(members) else "for a whole budget"
        yield f"  {label}: {_format_time(time['hours'])} {whole}, {needed} ({jobs})"
        for end, hours in enumerate(time["hours"]):
            totals[end] += hours * shares[setting]
    if device is not None:
        left_out = f", without {unknown} jobs that are not known" if unknown else ""
        yield f"on {device}: {_format_time(totals)} of train steps one after another{left_out}"


def _format_time(hours: Sequence[float]) -> str:
    """`2 min 5 s to 4 min 10 s`."""
    words = [format_duration(3600 * end) for end in hours]
    return " to ".join(dict.fromkeys(words))


def _name_setting(point: Point) -> tuple[str, ...]:
    """The overrides of a job that its time and memory depend on."""
    return tuple(text for text in point.overrides if not override_keys([text]) & NOT_TIMED)


def predict_beside(work: PredictWork) -> dict | str:
    """The prediction of a process of its own, since this one imports no torch; why there is none, in a line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            with assign_devices(Share(uses_devices=False)):
                failure = supervisor.run_supervised(
                    replace(work, folder=folder), supervisor.Limits(), folder / "log"
                )
        except JobFailed as error:
            return str(error)
        if failure is not None:
            return str(failure.error["message"])
        return read_json(folder / PREDICTION) or "no prediction was written"
