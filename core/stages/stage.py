"""A stage, declared once: its name, its options, what checks them and what does the work.

The entry point, `--help`, MLproject (core/mlproject.py), stage keys (core/stages/keys.py), child runs and reuse
(core/stages/execute.py) all come from this declaration. Every package named in core/stages/catalog.py has a module `stages` with its
declarations; they import configuration classes only, so that `--help` and a wrong option are answered in a moment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its entry point.
        config: the frozen dataclass of its options.
        work: `module:function`, called as `function(config, run) -> summary`; imported only after the options are known to be good.
            `run` is None on ranks other than 0.
        check: `module:function` without heavy imports, called as `function(config)` before the module of `work` is imported; it raises
            UserError for options that contradict each other.
        begin: `module:function`, called as `function(config) -> core.stages.execute.Job`: what a stage with a key of its own does below
            another run; a stage without one is done by `work` there, and its files are vouched for together.
        headline: the options that MLproject declares: those that people set. All others work as `-P name=value` too.
    """

    name: str
    config: type[Any]
    work: str
    check: str = ""
    begin: str = ""
    headline: tuple[str, ...] = ()


def function_of(reference: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    module, name = reference.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
