"""Where Hydra looks for plugins: the lists of data sets of tuneoff."""

from tuneoff.config.set_lists import SetListSearchPath as _SetListSearchPath
from tuneoff.config.set_lists import SetListSource as _SetListSource


class SetListSource(_SetListSource):
    """Registered by Hydra under this module, as it demands of a plugin."""


class SetListSearchPath(_SetListSearchPath):
    """Registered by Hydra under this module, as it demands of a plugin."""
