"""Registered methods: their composed classes, and the words by which other programs choose them."""

from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore


class MethodWord(NamedTuple):
    """A word of another program that stands for a choice of `method`."""

    key: str
    value: str | None  # how the value begins; None for any
    choice: str

    def fits(self, key: str, value: str) -> bool:
        """Whether `key=value` is this word."""
        if key != self.key:
            return False
        return self.value is None or value.lower().startswith(self.value)


def schemas() -> dict[str, Any]:
    """The composed class of every registered method family, by the module's name."""
    # Looked at where it lies, since `load` copies it.
    stored: Any = ConfigStore.instance().repo.get("schema", {})
    classes = {}
    for file, node in sorted(stored.items()):
        classes[file.removesuffix(".yaml")] = node.schema
    return classes


def list_method_words() -> list[MethodWord]:
    """What methods say that they are called elsewhere; of a family's words, the later are the more particular."""
    words = []
    for schema in schemas().values():
        for written, choice in schema.options.elsewhere.items():
            key, equals, value = written.partition("=")
            words.append(MethodWord(key, value if equals else None, choice))
    return words


def find_choice(key: str, value: str) -> str | None:
    """Return the choice of `method` that a word of another program stands for; None for any other word."""
    for word in list_method_words():
        if word.fits(key, value):
            return word.choice
    return None


def find_alias(name: str) -> list[str] | None:
    """Return our words for a method that is none of its own here; None for any other name."""
    for schema in schemas().values():
        if name in schema.options.aliases:
            return list(schema.options.aliases[name])
    return None


def find_foreign_defaults(key: str, value: str) -> dict[str, str]:
    """Return the options of a method that a word chooses whose defaults are others where the word comes from."""
    for schema in schemas().values():
        for written in schema.options.elsewhere:
            if written == f"{key}={value.lower()}":
                return dict(schema.options.foreign_defaults)
    return {}


def find_foreign_options() -> dict[str, str]:
    """Options of methods by other programs' names of them."""
    names: dict[str, str] = {}
    for schema in schemas().values():
        names.update(schema.options.foreign_options)
    return names
