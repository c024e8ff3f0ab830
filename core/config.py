"""One frozen dataclass a stage; the command line, `--help`, the stage key and MLproject all come from it.

A field is declared with `option(default, doc)`, an input with `place(default, doc, kind)`, what can change no result with
`machine(default, doc)`; its annotation is its type, its limits stand beside it. `auto` in a type means that the recipe of the data set
and backbone fills it in (core/training/recipes.py). A class that inherits `ConfigFile` also takes options from a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import types
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import jsonargparse

from core import config_file
from core.errors import UserError
from core.older_names import nearest_value, present_name, unknown_options


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


C = TypeVar("C", bound=Dataclass)
Auto = Literal["auto"]


def _always(_config: object) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Limits:
    """Between which numbers a field's value has to be; values that are no numbers (`auto`, `none`) are never outside.

    Attributes:
        above, at_least, below, at_most: None = no such limit. NaN is outside every one.
        wrong: what an error line says after `name = value`; '' = made from the limits.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    wrong: str = ""

    def refusal(self, value: float) -> str:
        """Return what an error line says after `name = value`; '' for a value inside."""
        if self.above is not None and not value > self.above:
            said = f"; it must be larger than {self.above}"
        elif self.at_least is not None and not value >= self.at_least:
            said = f"; {'use' if self.at_least else 'it must be'} {self.at_least} or more"
        elif self.below is not None and not value < self.below:
            said = f" is too large; use one below {self.below}"
        elif self.at_most is not None and not value <= self.at_most:
            said = f" is too large; use {self.at_most} or less"
        else:
            return ""
        share = " is outside 0..1; give a share between 0 and 1" if (self.at_least, self.at_most) == (0, 1) else ""
        return self.wrong or share or said

    def __str__(self) -> str:
        """Return the limits as `--help` shows them, '' for none."""
        bounds = {"above": self.above, "at least": self.at_least, "below": self.below, "at most": self.at_most}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


SEED: dict[str, Any] = {"at_least": 0, "below": 2**32}
SHARE: dict[str, Any] = {"at_least": 0, "at_most": 1}
EMPTY = "''"  # what `mlflow run` writes, quoted for a shell as all that it writes, of an option that nobody gave
HALF: dict[str, Any] = {"at_least": 0, "at_most": 0.5, "wrong": " is outside 0..0.5; give a share of at most a half"}


def option(default: Any, doc: str, *, acts: Callable[[Any], bool] = _always, digest: str = "", role: str = "", **limits: Any) -> Any:
    """Declare one configuration field: its default, its one-line documentation, its limits, and what it has to do with the result.

    Args:
        acts: of the resolved configuration, whether the option acts beside the others; where it does not it is in no stage key. Say False
            only where nothing changes, not a bit. An option that this class lacks counts as it is in stages that have it.
        digest: kind of the digest that stands for the option in the key of a stage that has one (core/stages/keys.py): `data` for
            whatever decides which items are read and who of them is held out.
        role: `place` or `machine`, as declared by the functions of these names; '' = its value is in the stage key.
        limits: `above`, `at_least`, `below`, `at_most` and `wrong` of `Limits`.
    """
    return dataclasses.field(
        default=default, metadata={"doc": doc, "role": role, "acts": acts, "digest": digest, "limits": Limits(**limits)}
    )


def place(default: str, doc: str, holds: str = "data", acts: Callable[[Any], bool] = _always) -> Any:
    """Declare where an input lies: the digest of what it holds is in the stage key, never the place. Kinds: core/stages/keys.py."""
    return option(default, doc, acts=acts, digest=holds, role="place")


def machine(default: Any, doc: str, **said: Any) -> Any:
    """Declare what can change no result: worker counts, progress, where to start, where to write; never in a stage key."""
    return option(default, doc, role="machine", **said)


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """Options from a file; inherited last, so that `config` is the first option."""

    config: str = machine(
        "", "file of options, JSON, JSON5 or YAML (path or runs:/<id>/best.json); an option of the command line overrides it"
    )


def fields_of(config: type) -> list[tuple[str, Any, Any, str]]:
    """Return (name, type, default, doc) of every field of a configuration class, in order."""
    hints = get_type_hints(config)
    return [(f.name, hints[f.name], f.default, f.metadata["doc"]) for f in dataclasses.fields(config)]


@cache
def parser_of(config: type, prog: str) -> jsonargparse.ArgumentParser:
    """Return the command-line parser of a configuration class."""
    parser = jsonargparse.ArgumentParser(prog=prog, description=(config.__doc__ or "").strip(), exit_on_error=False)
    limits = {f.name: str(f.metadata["limits"]) for f in dataclasses.fields(config)}
    for name, annotation, default, doc in fields_of(config):
        said = f"{doc} ({limits[name]})" if limits[name] else doc
        parser.add_argument(f"--{name}", type=annotation, default=default, help=said)
    return parser


def of_params(config: type[C], params: Mapping[str, str], prog: str) -> C:
    """Build `config` from a run's parameters; those that are no option of it are passed over."""
    found = {name: (param(params, name), annotation) for name, annotation, *_ in fields_of(config)}
    values = {name: value for name, (value, annotation) in found.items() if value or (value == "" and annotation is str)}
    return parse(config, [f"--{name}={value.lower() if value in ('True', 'False') else value}" for name, value in values.items()], prog)


def param(params: Mapping[str, str], name: str) -> str | None:
    """Return what an option came to by a run's parameters; None where they do not say. `resolved.` says it where `mlflow run` was first."""
    found = params.get(f"resolved.{name}", params.get(name))
    return "" if found == EMPTY else found


def parse(config: type[C], argv: list[str], prog: str) -> C:
    """Build `config` from command-line words; raise UserError naming the option, the value and what it takes.

    With `--config` the file's options take the place of defaults, and what the words give overrides them. The result holds all values
    and no longer names the file, unless it holds a list of configurations that `multi_config` asks for (`configurations_of`).
    """
    words = _present_words(config, argv)
    chosen = _from_words(config, words, prog)
    uri = getattr(chosen, "config", "")
    if not uri:
        return chosen
    if getattr(chosen, "multi_config", False):
        return dataclasses.replace(chosen, config=_Source(uri, [_name(word) for word in words]))
    found = _filed(config, uri, words, prog)
    if len(found) > 1:
        remedy = "set multi_config = true, or leave one in it" if hasattr(chosen, "multi_config") else "leave one in it"
        raise UserError(f"config = '{uri}' holds {len(found)} configurations; {remedy}")
    filed, both = found[0]
    taken = ", ".join(f"{f.name}={getattr(filed, f.name)}" for f in dataclasses.fields(config) if getattr(filed, f.name) != f.default)
    print(f"taxon: from {uri}: {taken}; options of the command line override them", file=sys.stderr)
    return both


def configurations_of(config: ConfigFile, prog: str, check: Callable[[Any], Any] = _always) -> list[Any]:
    """Return the configurations of the file that `config.config` names, overridden by the options that were given beside it.

    UserError of one of them, `check`'s included, names the file and which of its configurations it is.
    """
    return [both for _filed, both in _filed(type(config), config.config, to_argv(config), prog, check)]


def origin(argv: list[str]) -> str:
    """Return the file or URI that the words name as `config`; '' where they name none."""
    return next(reversed(_values_of("config", _present_words(ConfigFile, argv))), "")


class _Source(str):
    """The place of a file of configurations; it remembers which options were given beside it, those at their default included."""

    given: list[str]

    def __new__(cls, uri: str, given: list[str]) -> _Source:
        made = super().__new__(cls, uri)
        made.given = given
        return made

    def __getnewargs__(self) -> tuple[str, list[str]]:  # type: ignore[override]  # __new__ takes more than str's
        return str(self), self.given


def _filed(config: type[C], uri: str, words: list[str], prog: str, check: Callable[[Any], Any] = _always) -> list[tuple[C, C]]:
    """Return of every configuration in a file: as the file has it, and as it is with the words; UserError names file and place."""
    known = [name for name, *_ in fields_of(config)]
    given = [word for word in words if _name(word) not in config_file.NOT_IN_A_FILE]
    made = []
    for where, found in config_file.read(uri).items():
        try:
            said = config_file.words(found, known, prog)
            made.append((_from_words(config, said, prog), _from_words(config, said + given, prog)))
            check(made[-1][1])
        except UserError as error:
            raise UserError(f"config = '{uri}'{where}: {error}") from None
    return made


def _present_words(config: type, argv: list[str]) -> list[str]:
    """Return command-line words in present names, each option in one word with its value, which may begin with dashes.

    `mlflow run` passes what MLproject does not declare as two words, and a declared one always: `--name:=` with nothing is one that nobody
    gave, and falls away (core/mlproject.py). A switch of the older kind, which has no value, is true.
    """
    types_of = {name: annotation for name, annotation, *_ in fields_of(config)}
    words, at = [], 0
    while at < len(argv):
        word, at = argv[at], at + 1
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        passed, name = name.endswith(":"), present_name(name.removesuffix(":"), types_of)
        switch = _is_switch(types_of.get(name))
        if not equals and at < len(argv) and name != "help" and not _is_next(argv[at], switch, types_of):
            equals, value, at = "=", argv[at], at + 1
        elif not equals and switch:
            equals, value = "=", "true"
        if value or not passed:
            words.append(f"--{name}{equals}{value}")
    return words


def _is_next(word: str, switch: bool, known: Collection[str]) -> bool:
    """Return whether a word after an option's name is the next option: any with two dashes after a switch, else one that there is."""
    return word.startswith("--") and (switch or present_name(_name(word), known) in {*known, "help"})


def _name(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]


def _is_switch(annotation: Any) -> bool:
    return annotation is bool or (get_origin(annotation) in (Union, types.UnionType) and bool in get_args(annotation))


def _from_words(config: type[C], argv: list[str], prog: str) -> C:
    known = {name for name, *_ in fields_of(config)}
    given = [_name(word) for word in argv if word.startswith("--")]
    lacking = [name for name in given if name not in known | {"help"}]
    if lacking:
        raise UserError(f"{prog} has {unknown_options(lacking, known)}; see python -m entrypoints.{prog} --help")
    try:
        namespace = parser_of(config, prog).parse_args(argv)
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise UserError(_explain(config, argv, error)) from None
    config_object = config(**{name: getattr(namespace, name) for name in known})
    _require_finite(config_object)
    return config_object


def describe(annotation: Any) -> str:
    """Name a field's type as users read it: `float or auto`, `v1 | v2 | v2b`, `true/false`."""
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(describe(part) for part in get_args(annotation))
    return {bool: "true/false", int: "a whole number", float: "a number", str: "text"}[annotation]


def names_of(config: Dataclass | type[Dataclass], *roles: str) -> list[str]:
    """Return the names of the fields of a configuration (class) that have one of these roles: place, machine, '' = neither."""
    return [f.name for f in dataclasses.fields(config) if f.metadata["role"] in roles]


def canonical(config: Dataclass, results_only: bool = False) -> dict[str, Any]:
    """Return the configuration as JSON-ready values; `results_only` leaves out what cannot change a result."""
    names = names_of(config, "place", "") if results_only else names_of(config, "place", "", "machine")
    return {name: getattr(config, name) for name in names}


def asked(config: Dataclass, covered: Collection[str] = ()) -> dict[str, Any]:
    """Return what a (resolved) configuration asks for: the options that act, without places and the kinds of digests that are `covered`.

    A class may say by `implied()` what options that never act by themselves come to together.
    """
    plain = [f for f in dataclasses.fields(config) if not f.metadata["role"] and f.metadata["digest"] not in covered]
    kept = {f.name: getattr(config, f.name) for f in plain if f.metadata["acts"](config)}
    return kept | (config.implied() if hasattr(config, "implied") else {})


def places(config: Dataclass) -> dict[str, str]:
    """Return the kind of digest of every place that acts, by name."""
    fields = (f for f in dataclasses.fields(config) if f.metadata["role"] == "place" and f.metadata["acts"](config))
    return {f.name: f.metadata["digest"] for f in fields}


def check_limits(config: C) -> C:
    """Return the configuration, or raise UserError naming its first number that is outside its limits or not finite."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, (int, float)) and (said := f.metadata["limits"].refusal(value)):
            raise UserError(f"{f.name} = {value}{said}")
    _require_finite(config)
    return config


def fitted(kind: type[C], given: Any, **values: Any) -> C:
    """Return a configuration of `kind`: what it shares with `given`, and `values`.

    Args:
        given: values by name, or a configuration, of which the options are taken that have the same role in `kind`.
    """
    if not isinstance(given, Mapping):
        roles = {f.name: f.metadata["role"] for f in dataclasses.fields(kind)}
        given = {f.name: getattr(given, f.name) for f in dataclasses.fields(given) if roles.get(f.name) == f.metadata["role"]}
    return kind(**{f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given} | values)


def to_argv(config: Dataclass) -> list[str]:
    """Return command-line words that parse back into an equal configuration, defaults left out."""
    return [config_file.word(name, value) for name, value in told(config).items()]


def told(config: Dataclass) -> dict[str, Any]:
    """Return the options that a command must name: those that are not at their defaults, or were given at them to override a file."""
    given = getattr(getattr(config, "config", ""), "given", ())
    values = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default or name in given}


def _require_finite(config: Dataclass) -> None:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{f.name} = {value} is not a finite number; give a finite one")


def _explain(config: type, argv: list[str], error: Exception) -> str:
    """Find the offending word, so that the message names option, value and remedy instead of a parser's tree."""
    for name, annotation, _default, _doc in fields_of(config):
        single = jsonargparse.ArgumentParser(exit_on_error=False)
        single.add_argument(f"--{name}", type=annotation)
        values = _values_of(name, argv)
        for value in values:
            try:
                single.parse_args([f"--{name}={value}"])
            except (argparse.ArgumentError, jsonargparse.ArgumentError):
                hint = nearest_value(value, get_args(annotation)) if get_origin(annotation) is Literal else ""
                return f"{name} = '{value}' is not valid: it takes {describe(annotation)}{hint}"
    return str(error).strip().splitlines()[0]


def _values_of(name: str, argv: list[str]) -> list[str]:
    return [word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}=")]
