"""YAML into frozen dataclasses, strictly: an unknown key or a wrong type is an error with its line.

Silently ignored keys are the commonest way to run something other than what one meant, so nothing
is ignored: unknown keys name their nearest neighbour, duplicates are refused, and `1e-3` is a
number although YAML 1.1 reads it as text; a date is a text. Values are checked by pydantic in
strict mode.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import Tag, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from audit.attest import LARGEST
from audit.errors import ConfigError

T = TypeVar("T")
Path = tuple[str | int, ...]

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")
_QUOTED = re.compile(r"'([^']*)'")
_FLOAT_TAG, _DATE_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_TEXT_TAG, _MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads `1e-3` as a float, and leaves a date the text it is.

    A key is the text that stands there: YAML 1.1 would take one called `on` for true.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, whose plain keys are texts."""
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE_TAG:
                key.tag = _TEXT_TAG
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes a text which `_Loader` would read as a float."""


_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != _DATE_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789"))


def load(
    kind: type[T],
    text: str,
    *,
    source: str,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> T:
    """Return the `kind` that `text`, then `given`, then the overrides describe.

    Args:
        kind: a pydantic dataclass; its field types are the schema.
        text: YAML.
        source: the file name to print in errors.
        given: top-level keys that options of the command line set.
        overrides: `key.path=value` settings from the command line, applied last.

    Raises:
        ConfigError: one sentence with file, line, key and what is allowed.
    """
    data, lines = _parse(text, source)
    for key, value in (given or {}).items():
        data[key] = value
        lines[(key,)] = f"--{key.replace('_', '-')}"
    for override in overrides:
        _override(_with_list(data, kind, override), lines, override)
    _refuse_inexact(data, (), lines, source)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0], kind, lines, source)) from error


def dump(value: Any) -> str:
    """Return a config dataclass as YAML, every key explicit, in the order of its definition."""
    plain = json.loads(json.dumps(asdict(value)))
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Path, str]]:
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.problem}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{source}:{line}: not valid YAML: U+{error.character:04X} is not allowed."
        ) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}:1: a config is a mapping of keys to values, not {_name(data)}."
        )
    lines: dict[Path, str] = {}
    if node is not None:
        _walk(node, (), source, lines)
    return data, lines


def _refuse_inexact(value: Any, path: Path, lines: Mapping[Path, str], source: str) -> None:
    """Refuse a whole number that the record of what was done could not hold exactly, as JSON."""
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(
            f"{_where(path, lines, source)}: {'.'.join(map(str, path))}: a whole number is at "
            "most 2**53 - 1 here, as in JSON; give a smaller one."
        )
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        _refuse_inexact(inner, (*path, key), lines, source)


def _where(path: Path, lines: Mapping[Path, str], source: str) -> str:
    """Return file and line of what is nearest to `path`."""
    return next((lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in lines), source)


def _walk(node: yaml.Node, path: Path, source: str, lines: dict[Path, str]) -> None:
    """Record where each key stands, and refuse a key given twice."""
    lines.setdefault(path, f"{source}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = f"{source}:{key.start_mark.line + 1}"
            if (*path, key.value) in lines:
                raise ConfigError(f"{where}: key {key.value!r} is given twice; keep one.")
            lines[(*path, key.value)] = where
            _walk(value, (*path, key.value), source, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), source, lines)


def _override(data: dict[str, Any], lines: dict[Path, str], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"-s {override}: write it as key.path=value.")
    place: Any = data  # a mapping or a list, as the path leads
    path: Path = ()
    *parents, last = key.split(".")
    for parent in parents:
        path = (*path, _key(place, parent, override))
        inner: Any = place.setdefault(path[-1], {}) if isinstance(place, dict) else place[path[-1]]
        place = inner
        if not isinstance(place, dict | list):
            raise ConfigError(f"-s {override}: {parent!r} is a value, not a section.")
    path = (*path, _key(place, last, override))
    try:
        place[path[-1]] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"-s {override}: the value is not valid YAML.") from error
    for depth in range(1, len(path) + 1):
        lines[path[:depth]] = f"-s {key}"


def _with_list(data: dict[str, Any], kind: type, override: str) -> dict[str, Any]:
    """Fill in a list that the override changes an item of and the file leaves at its default."""
    name, dot, _ = override.partition("=")[0].partition(".")
    default = {field.name: field.default for field in fields(kind)}.get(name)
    if dot and name not in data and isinstance(default, tuple):
        data[name] = [asdict(item) for item in default]
    return data


def _key(place: Any, key: str, override: str) -> str | int:
    """Return `key`, or the place of the list's item of that number, `name` or `kind`."""
    if not isinstance(place, list):
        return key
    names = [
        {str(item.get("name")), str(item.get("kind"))} if isinstance(item, dict) else {str(item)}
        for item in place
    ]
    found = [index for index, known in enumerate(names) if key in known or key == str(index)]
    if len(found) != 1:
        how = "no item" if not found else f"{len(found)} items"
        instead = f"use a number from 0 to {len(place) - 1}" if place else "set all of it"
        raise ConfigError(f"-s {override}: the list has {how} called {key!r}; {instead}.")
    return found[0]


def _sentence(error: ErrorDetails, kind: type, lines: dict[Path, str], source: str) -> str:
    path, section_kind = _locate(kind, tuple(error["loc"]))
    mark = _mark(error)
    path = (*path, mark) if mark else path
    where = _where(path, lines, source)
    name = ".".join(str(part) for part in path)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        *parents, key = path
        known = [field.name for field in fields(section_kind)]
        section = f" in {'.'.join(map(str, parents))}" if parents else ""
        return f"{where}: unknown key {str(key)!r}{section}; {_hint(str(key), known, 'keys')}"
    if mark and error["type"] == "union_tag_invalid":
        given, known = error["ctx"]["tag"], _QUOTED.findall(error["ctx"]["expected_tags"])
        return f"{where}: {name} {given!r} is unknown; {_hint(given, known, f'{mark}s')}"
    if mark or error["type"] in (
        "missing",
        "missing_argument",
        "missing_keyword_only_argument",
    ):
        return f"{where}: {name} is required and missing."
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    got = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
    return f"{where}: {name or 'the config'}: {message}{got}."


def _mark(error: ErrorDetails) -> str | None:
    """Return the key that says which of several sections is meant, where that is what is wrong."""
    if error["type"] not in ("union_tag_invalid", "union_tag_not_found"):
        return None
    found = _QUOTED.fullmatch(error["ctx"]["discriminator"])  # else it is no key but a function
    return found[1] if found else None


def _hint(word: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known {what}: {', '.join(known)}."


def _locate(kind: type, place: Path) -> tuple[Path, type]:
    """Return the keys that lead to an error, and the dataclass of the section it is in.

    Where a section may be one of several dataclasses, pydantic names the one it tried between the
    keys; that is no key of the file.
    """
    path: list[str | int] = []
    options = {"": kind}
    for part in place:
        if str(part) in options:
            kind = options[str(part)]
            continue
        path.append(part)
        if isinstance(part, int):  # an item of a list, of the kind its list allows
            continue
        types = {field.name: field.type for field in fields(kind)}
        options = _dataclasses(types.get(str(part)))
        kind = next(iter(options.values()), kind)
    return tuple(path), kind


def _dataclasses(annotation: Any, tag: str = "") -> dict[str, type]:
    """Return the dataclasses an annotation allows, by pydantic's tag of each."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return {tag: annotation}
    marks = [m.discriminator for m in get_args(annotation) if isinstance(m, FieldInfo)]
    if marks and isinstance(marks[0], str):
        union = get_args(annotation)[0]
        return {
            value: option
            for option in get_args(union)
            for value in get_args(get_type_hints(option)[marks[0]])
        }
    tags = [mark.tag for mark in get_args(annotation) if isinstance(mark, Tag)]
    found: dict[str, type] = {}
    for option in get_args(annotation):
        found |= _dataclasses(option, tags[0] if tags else tag)
    return found


def _name(value: Any) -> str:
    match value:
        case list():
            return "a list"
        case str():
            return "a text"
    return f"a {type(value).__name__}"
