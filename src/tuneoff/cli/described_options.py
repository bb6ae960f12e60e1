"""Described options: every key of the command line with its default, what it may be, and its sentence, in groups."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from tuneoff.cli.allowed_values import describe_allowed, read_field_types
from tuneoff.cli.own_yamls import CHOSEN
from tuneoff.config import Experiment, Forgetting, format_value, schemas
from tuneoff.config.descriptions import describe_class, describe_fields
from tuneoff.config.resolvers import describe_by_model
from tuneoff.config.settings import GROUPS

PACKAGE_LINE = "@package"


@dataclass(frozen=True)
class Option:
    """One key of the command line."""

    key: str
    default: str
    allowed: str
    sentence: str


@dataclass(frozen=True)
class Group:
    """Options that belong together, under a heading."""

    title: str
    options: list[Option]

    @property
    def name(self) -> str:
        """The word by which `--help` knows the group."""
        return self.title.partition(":")[0].partition(" ")[0].lower()


@dataclass(frozen=True)
class Choice:
    """A YAML of a method, a model or a data set: its own comment, and the values that it sets."""

    name: str
    sentence: str
    values: dict[str, Any]
    schema: str | None  # of a method: the module whose options it has
    stored: dict[
        str, str
    ]  # what its defaults put under a key: the path of typed options in Hydra's store


# ---------------------------------------------------------------- options of a dataclass
def list_options(
    cls: Any,
    prefix: str = "",
    values: dict[str, Any] | None = None,
    held: dict[str, Any] | None = None,
    wanted: Collection[str] | None = None,
) -> Iterator[Option]:
    """Yield the options of a dataclass, the parts of a nested one in its place.

    Args:
        prefix: what stands before each key, such as `data.`.
        values: what a YAML sets in place of the defaults.
        held: the classes of what a YAML puts under keys of any type.
        wanted: the fields to list; None lists all.
    """
    given = values or {}
    for item in fields(cls):
        if wanted is not None and item.name not in wanted:
            continue
        nested = (held or {}).get(item.name) or _find_nested_class(cls, item)
        if nested is not None:
            inner = given.get(item.name)
            inner_values = inner if isinstance(inner, dict) else {}
            yield from list_options(nested, f"{prefix}{item.name}.", inner_values)
        else:
            yield _describe_option(cls, item, prefix, given)


def _find_nested_class(cls: type, item: Field) -> Any:
    """The dataclass that a field holds, which is given by its parts; None for a plain value, or a choice alone."""
    if cls is Forgetting:
        return None
    hint = read_field_types(cls)[item.name]
    if get_origin(hint) is dict:  # of several, whose keys are those of one
        return None
    kinds = get_args(hint) or (hint,)
    return next((kind for kind in kinds if is_dataclass(kind)), None)


def _describe_option(
    cls: type,
    item: Field,
    prefix: str,
    values: dict[str, Any],
) -> Option:
    default = values.get(item.name, item.default)
    return Option(
        key=prefix + item.name,
        default=_format_default(default),
        allowed=_describe_values(cls, item),
        sentence=describe_fields(cls).get(item.name, ""),
    )


def _format_default(default: Any) -> str:
    """A default as it is written; empty for a key that must be given, or that is found when a run starts."""
    by_model = describe_by_model(str(default))
    if by_model is not None:
        return by_model
    if default in (MISSING, NO_DEFAULT) or str(default).startswith("${"):
        return ""
    return format_value(default)


def _describe_values(cls: type, item: Field) -> str:
    """What a field may be, in words."""
    kinds = get_args(read_field_types(cls)[item.name])
    null = ", or null" if item.default is None or NoneType in kinds else ""
    if item.metadata.get("names"):
        # The word `all` is one of them where it is the default.
        every = ", or all" if item.default == "all" else ""
        return f"names, as in [one,two]{every}{null}"
    if cls is Forgetting or (cls is not Experiment and item.name in CHOSEN):
        return f"a name of a YAML{null}"
    words = describe_allowed(cls, item.name)
    if words is None:
        return f"keys with values{null}"
    words = words.removeprefix("must be ")
    is_one_of_few = words.startswith("text, ") and words != "text, or null"
    return words.removeprefix("text, ") if is_one_of_few else words


# ---------------------------------------------------------------- groups
def list_shared_groups() -> list[Group]:
    """Return the settings that all methods share, in their groups."""
    groups = []
    for cls in GROUPS:
        groups.append(Group(describe_class(cls).removesuffix("."), list(list_options(cls))))
    return groups


def describe_choice(group: str, choice: Choice) -> Group:
    """Return the options of a method, a model or a data set, with the values of its YAML as defaults."""
    title = f"{group}={choice.name}: {choice.sentence}"
    if group != "method":
        cls = read_field_types(Experiment)[group]
        return Group(title, list(list_options(cls, f"{group}.", choice.values)))
    schema = schemas().get(choice.schema or "")
    own = (
        []
        if schema is None
        else list(list_options(schema.options, "", choice.values, load_stored(choice.stored)))
    )
    own_keys = {option.key.partition(".")[0] for option in own}
    shared_keys = choice.values.keys() - own_keys - {"method", "family"}
    changed = list_options(Experiment, "", choice.values, wanted=shared_keys)
    return Group(title, [*own, *changed])


# ---------------------------------------------------------------- the YAMLs
def list_choices(group: str, folders: Sequence[Path]) -> dict[str, Choice]:
    """Return the YAMLs of a group in folders of configs, by name; the first folder that has one counts."""
    files = find_choice_files(group, folders)
    return {name: read_choice(path) for name, path in files.items()}


def find_choice_files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the files of a group's YAMLs by name, sorted."""
    files: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).glob("*.yaml"):
            files.setdefault(path.stem, path)
    return {name: files[name] for name in sorted(files)}


def read_choice(path: Path) -> Choice:
    """Return what a YAML says of itself, in the comment at its head, and what it sets."""
    comment = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if PACKAGE_LINE not in line:
            comment.append(line.strip("# "))
    content = OmegaConf.to_container(OmegaConf.load(path))
    values = {}
    if isinstance(content, dict):
        values = {str(key): value for key, value in content.items()}
    defaults = values.pop("defaults", [])
    schemas_named = [str(item) for item in defaults if str(item).startswith("/schema/")]
    schema = schemas_named[0].rpartition("/")[2] if schemas_named else None
    return Choice(path.stem, " ".join(comment), values, schema, find_stored(defaults))


def find_stored(defaults: list) -> dict[str, str]:
    """The paths in Hydra's store that a defaults list names by `/GROUP@KEY: NAME`, by key."""
    stored = {}
    for item in defaults:
        for path, name in item.items() if isinstance(item, dict) else ():
            group, _, key = str(path).strip("/").partition("@")
            if key and group in ConfigStore.instance().repo:
                stored[key] = f"{group}/{name}.yaml"
    return stored


def load_stored(paths: dict[str, str]) -> dict[str, Any]:
    """The classes of typed options in Hydra's store, by the key under which they stand."""
    store = ConfigStore.instance()
    classes = {}
    for key, path in paths.items():
        classes[key] = OmegaConf.get_type(store.load(path).node)
    return classes
