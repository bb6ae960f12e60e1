"""Every module found here, or in a `tuneoff/methods` folder elsewhere on Python's path, is a method family."""
from importlib import import_module
from pkgutil import extend_path, iter_modules

__path__ = extend_path(__path__, __name__)
for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
