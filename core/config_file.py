"""A file of options: JSON, JSON5 or YAML by its suffix; one configuration, or a list of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from core.data import texts
from core.errors import UserError
from core.older_names import present_name, unknown_options

NOT_IN_A_FILE = ("config", "multi_config")  # what says which file is read, and how


def read(uri: str) -> dict[str, dict[str, Any]]:
    """Return the configurations of a file (path or URI): where in it ('' = it is the whole file) -> option -> value.

    Raises:
        UserError: no readable file, or neither an object of options nor a list of them.
    """
    from core.tracking import store
    from core.tracking.uri import resolve

    if uri.startswith(("runs:/", "models:/")):
        store.prepare()
    path = resolve(uri, "config")
    try:
        found = _parsed(path)
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"config = '{uri}' is no readable JSON, JSON5 or YAML file: {' '.join(str(error).split())[:160]}") from None
    objects = found if isinstance(found, list) else [found]
    if not objects or not all(isinstance(one, dict) for one in objects):
        raise UserError(f"config = '{uri}' holds neither an object of options nor a list of them; write {{\"option\": value, ...}}")
    return {f", configuration {i}" if isinstance(found, list) else "": one for i, one in enumerate(objects, start=1)}


def words(found: dict[str, Any], known: Collection[str], prog: str) -> list[str]:
    """Return a configuration of a file as words of the command line; null stands for the default, as if it were not there.

    Raises:
        UserError: a key that is no option of `prog` (the nearest named), or a value that is none.
    """
    known = [name for name in known if name not in NOT_IN_A_FILE]
    given = {present_name(str(name), known): value for name, value in found.items()}
    lacking = [name for name in given if name not in known]
    if lacking:
        raise UserError(f"{prog} has {unknown_options(lacking, known)}; rename or remove it in the file")
    made = []
    for name, value in given.items():
        if isinstance(value, (str, bool, int, float)):
            made.append(word(name, value))
        elif value is not None:
            raise UserError(f"{name} = {str(value)[:60]} is no single value; give text, a number or true/false")
    return made


def word(name: str, value: str | bool | int | float) -> str:
    """Return an option with its value as a word of the command line."""
    return f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


def _parsed(path: Path) -> Any:
    text = texts.read(path, "config")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(text)
    import json5

    return json5.loads(text, allow_duplicate_keys=False)


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's own rule, which PyYAML leaves out: no key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep) for key, _ in node.value]
            twice = [key for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                raise ValueError(f"the key '{twice[0]}' is there twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
