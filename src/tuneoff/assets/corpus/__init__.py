"""`tuneoff:docstrings` and `tuneoff:stdlib`: rows made of CPython's library."""
