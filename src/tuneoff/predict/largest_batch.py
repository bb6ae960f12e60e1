"""The largest batch that fits: found by predicting, so that both the answer and the next larger batch were run."""

from collections.abc import Callable

MOST_ROWS = 2**16 - 1  # a larger batch is not looked for


def find_largest_batch(
    needed_gib: Callable[[int], float],
    limit: float,
    start: int,
    without_rows: float,
) -> tuple[int, dict[int, float]]:
    """Return the largest size that needs at most `limit`, 0 if none, with what every size that was tried needs.

    Args:
        needed_gib: what a batch of a size needs; it does not fall as sizes grow.
        limit: in the same unit.
        start: the size to try first.
        without_rows: roughly what is needed for no rows, to make a first guess.
    """
    tried: dict[int, float] = {}
    fits = 0
    too_large = MOST_ROWS + 1
    size = min(start, MOST_ROWS)
    while too_large - fits > 1:
        tried[size] = needed_gib(size)
        if tried[size] <= limit:
            fits = max(fits, size)
        else:
            too_large = min(too_large, size)
        guess = _guess_size({0: without_rows, **tried}, limit)
        if guess is None:
            guess = (fits + too_large) // 2
        size = min(max(guess, fits + 1), too_large - 1)
    return fits, tried


def _guess_size(needed_by_size: dict[int, float], limit: float) -> int | None:
    """The size at `limit` on a line through the two nearest sizes; None where that line does not rise.

    Memory is nearly a line in the rows, so that the guess lands on the answer or beside it.
    """

    def distance(size: int) -> float:
        return abs(needed_by_size[size] - limit)

    nearest, second = sorted(needed_by_size, key=distance)[:2]
    rise = needed_by_size[second] - needed_by_size[nearest]
    slope = rise / (second - nearest)
    if slope <= 0:
        return None
    return int(nearest + (limit - needed_by_size[nearest]) / slope)
