"""The command line: arguments, a run's folder, the pre-flight check, errors as one line, closing tables."""
