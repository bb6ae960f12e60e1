"""The file of what the tests measured: each run of them renews its own cells, and there is a row for every method."""

from helpers import FOUND
from matrix import FILE, Matrix


def test_every_method_has_a_row_and_the_file_is_as_it_was_written():
    text = FILE.read_text()
    methods = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| ")]
    assert set(methods[1:]) == set(FOUND)
    assert Matrix.read(text).to_markdown(methods[1:]) == text


def test_a_run_renews_what_it_measured_and_leaves_the_rest():
    matrix = Matrix()
    matrix.renew([("lora", "start", 0.0), ("lora", "merged", 2e-6), ("lora", "merged", 1e-6)])
    matrix.renew([("oft", "zero2", "was never tried"), ("oft", "start", "moves the output: by 3")])
    read = Matrix.read(matrix.to_markdown(["lora", "oft"]))
    assert read == matrix
    read.renew([("oft", "start", 0.5)])
    assert read.cells["oft", "start"] == "0.5" and read.cells["oft", "zero2"] == "no"
    assert read.cells["lora", "merged"] == "2e-06"
    assert read.reasons == {("oft", "zero2"): "was never tried"}
