"""One training run: set-up, the loop, a step, evaluation, checkpoints, export, trackers."""
