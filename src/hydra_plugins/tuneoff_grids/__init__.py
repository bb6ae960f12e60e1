"""Where Hydra looks for plugins: the grid sweeper of tuneoff."""

from tuneoff.sweeps.sweeper import GridSweeper as _GridSweeper


class GridSweeper(_GridSweeper):
    """Registered by Hydra under this module, as it demands of a plugin."""
