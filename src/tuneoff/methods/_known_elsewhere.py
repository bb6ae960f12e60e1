"""What a method and its options are called in other programs."""

from typing import Any, ClassVar


class KnownElsewhere:
    """Class variables that a method sets where other programs have it too."""

    # Words that stand for a choice of its family, the more particular below: `key=value`, where the value may go on, or
    # a key alone.
    elsewhere: ClassVar[dict[str, str]] = {}
    # Names of a choice with settings beside it, each with our words for it.
    aliases: ClassVar[dict[str, tuple[str, ...]]] = {}
    # Our names of options by theirs.
    foreign_options: ClassVar[dict[str, str]] = {}
    # Where LLaMA-Factory differs: defaults of options, settings that a choice has there whatever a YAML says, what to
    # know of a choice, and the type of all its weights under `bf16: true` (null: frozen ones bfloat16, else float32).
    foreign_defaults: ClassVar[dict[str, str]] = {}
    foreign_overrides: ClassVar[dict[str, dict[str, str]]] = {}
    foreign_notes: ClassVar[dict[str, str]] = {}
    foreign_dtype: ClassVar[str | None] = None
    # Options of LLaMA-Factory's that are none here: why one changes no step, or its default and what it would need.
    foreign_ignored: ClassVar[dict[str, str]] = {}
    foreign_refused: ClassVar[dict[str, tuple[Any, str]]] = {}
