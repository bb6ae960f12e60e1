"""One prepared check of tuneoff on a machine with one NVIDIA card, in eight minutes; --dry runs it small, on a CPU.

    python tests/gpu/check.py --predict predictions.json          beforehand, needs no GPU
    python tests/gpu/check.py --predictions predictions.json --out figures.json

Each section is written as soon as it is done, so that a run which is cut off keeps what it had.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from device_work import DRY
from jobs import TESTS, Check, make_work
from sections import BATCH_SIZES, SECTIONS

from tuneoff.jobs.work import PredictWork
from tuneoff.record import write_json

OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SHOWN_WIDTH = 200
THREADS = 2


def main() -> int:
    """Predict, or check; returns the exit code: 1 where a section could not be done at all."""
    options = read_options()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tuneoff-gpu-"))
    if (folder / "runs").exists():
        print(f"error: --folder {folder}: holds an earlier check", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(OFFLINE, TUNEOFF_CACHE=str(folder / "cache"))
    # Jobs side by side that each take all cores would wait for each other: minutes for one SVD of psoft or osf.
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    paths = [str(TESTS), str(TESTS / "gpu"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    check = Check(folder, options.dry, options.seconds)
    if options.dry:
        check.layers = 3
        check.workers = 1
    if options.predict:
        write_json(options.predict.resolve(), predict_peaks(check))
        return 0
    if options.predictions:
        check.predictions = json.loads(options.predictions.read_text())
    return run_sections(check, options.only or list(SECTIONS), options.out.resolve())


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures.json"), help="gets the figures")
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one by default")
    parser.add_argument("--predict", type=Path, help="write predictions there, and end")
    parser.add_argument("--predictions", type=Path, help="made beforehand")
    parser.add_argument("--seconds", type=float, default=460, help="begin no section after them")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections alone")
    parser.add_argument("--dry", action="store_true", help="all of it small, on a CPU")
    return parser.parse_args()


def run_sections(check: Check, names: list[str], out: Path) -> int:
    """Do the sections in turn, and write what each has found."""
    failed = False
    for name in names:
        section, wanted_seconds = SECTIONS[name]
        if check.left_seconds() < wanted_seconds:
            check.sections[name] = {"skipped": f"wants {wanted_seconds} s"}
            write_figures(check, out)
            continue
        started = time.monotonic()
        try:
            check.sections[name] = section(check)
        except Exception as error:  # the others may still tell something
            check.sections[name] = {"error": f"{type(error).__name__}: {error}"}
            failed = True
        check.say(f"section {name}: {time.monotonic() - started:.1f} s")
        write_figures(check, out)
    print(format_summary(check.sections))
    return int(failed)


def write_figures(check: Check, out: Path) -> None:
    """Write what has been found so far."""
    write_json(out, {"dry": check.dry, "sections": check.sections})


def format_summary(sections: dict) -> str:
    """A line an entry: its status, or what else it came to."""
    lines = []
    for name, section in sections.items():
        lines.append(name)
        for key, value in section.items():
            shown = value
            if isinstance(value, dict) and "status" in value:
                kept = ("status", "tokens_per_second", "against_prediction", "again", "resumed")
                shown = {
                    word: value[word] for word in (*kept, "error") if value.get(word) is not None
                }
            lines.append(f"  {key}: {shown}"[:SHOWN_WIDTH])
    return "\n".join(lines)


def predict_peaks(check: Check) -> dict:
    """What task=predict says of every run of the sections `methods_4` and `methods_1`."""
    predictions = {}
    for batch_size in BATCH_SIZES:
        for method in check.methods(batch_size):
            name = f"{method}_{batch_size}"
            words = ["task=predict", f"method={method}", *describe_shape(check, method)]
            words += ["pure_bf16=true", f"max_length={check.length}", f"batch_size={batch_size}"]
            work = make_work(check.folder / "predictions" / name, words)
            predicting = PredictWork(work.experiment, work.method, work.folder, work.start)
            prediction = predicting.run()
            predictions[name] = {
                key: prediction[key] for key in ("peak_gib", "breakdown_gib", "needed_gib")
            }
            check.say(f"{name}: {prediction['peak_gib']}")
    return predictions


def describe_shape(check: Check, method: str) -> list[str]:
    """The shape of the model that a method is checked on."""
    layers = check.slim_layers if "galore" in method else check.layers
    words = ["model=llama_1b", "model.pretrained=false", f"model.config.num_hidden_layers={layers}"]
    if check.dry:
        words += [
            f"model.config.hidden_size={DRY.hidden}",
            f"model.config.intermediate_size={DRY.intermediate}",
            f"model.config.num_attention_heads={DRY.heads}",
            f"model.config.num_key_value_heads={DRY.heads}",
            f"model.config.vocab_size={DRY.vocabulary}",
        ]
    return words


if __name__ == "__main__":
    sys.exit(main())
