"""tuneoff compares LLM fine-tuning methods so that every number can be believed."""

from pkgutil import extend_path

# A method can live in another folder on Python's path (tests add one that way).
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
