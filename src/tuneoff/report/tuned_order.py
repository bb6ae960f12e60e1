"""The order of rows as a tuning sees it: by validation loss, at the same seeds, and none of them lost."""

from collections.abc import Sequence

import numpy as np

from tuneoff.record.judgement import find_common_seeds
from tuneoff.report import stats
from tuneoff.report.rows import VALIDATION_LOSS, Row


def order_as_tuned(rows: Sequence[Row]) -> list[Row]:
    """Return rows by rising validation loss; behind them by their own means those that a tuning would not take.

    Of equal ones the lowest rate comes first, as it does there.
    """
    losses = dict(zip(rows, measure_tuned_losses(rows), strict=True))

    def place(row: Row) -> tuple:
        own = (row.mean_validation_loss, row.rate or 0.0, row.name)
        return (losses[row], *own)

    return sorted(rows, key=place)


def measure_tuned_losses(rows: Sequence[Row]) -> list[float]:
    """Return each row's mean validation loss over the seeds that the most rows have.

    Infinity where one of these is missing, or where any seed came to no loss at all, such as one that diverged.
    """
    tried = [row.values_by_seed(VALIDATION_LOSS).keys() | row.lost_seeds for row in rows]
    seeds = sorted(find_common_seeds(tried))
    losses = []
    for row in rows:
        values = row.values_by_seed(VALIDATION_LOSS)
        estimate = None
        if not row.lost_seeds and values.keys() >= set(seeds):
            estimate = stats.estimate_mean([values[seed] for seed in seeds])
        losses.append(estimate.mean if estimate else np.inf)
    return losses
