"""A search space: which options of a family's training are drawn from where, and by which honest metric trials are compared."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from core import config as configuration
from core.errors import UserError, nearest
from core.older_names import nearest_value
from core.stages.stage import Stage

Metrics = dict[str, float]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log` draws their logarithm, `whole` draws integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> float:
        """Draw a value for the option `name`."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{' log' if self.log else ''}{' whole' if self.whole else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """Draw a value for the option `name`."""
        return trial.suggest_categorical(name, self.values)

    def __str__(self) -> str:
        return " | ".join(str(value) for value in self.values)


Parameters = Mapping[str, Range | Choice]


@dataclass(frozen=True)
class Space:
    """One family's search.

    Attributes:
        name: of the space, first word of its studies' names.
        stage: the family's training, which takes the best configuration. What it begins with a prepared one is a trial: it reports
            epochs through `run.forward(values, epoch)` and returns a summary with `metrics`.
        ranges: of a base configuration, what is always searched.
        also: of a base configuration, what is searched when the option `also` names it.
        grid: the older grid, values by option; empty = there was none.
        metrics: the label-honest metrics by name, each computed from a training's metrics; the first is the default.
        prepare: fills `auto` in and checks; raises UserError.
        inputs: of a prepared configuration, the digests of everything that trials read.
        direction: maximize or minimize.
        by_hand: what the study replaces where there was no grid.
        judges: options of the training by which the study judges its trials, whether they act in a training or not.
        of_best: of a trial's configuration, the options that the best one has instead.
    """

    name: str
    stage: Stage
    ranges: Callable[[Any], Parameters]
    grid: Mapping[str, Sequence[Any]]
    metrics: Mapping[str, Callable[[Metrics], float]]
    inputs: Callable[[Any], dict[str, str]]
    prepare: Callable[[Any], Any] = lambda config: config
    also: Callable[[Any], Parameters] = lambda config: {}
    direction: Literal["maximize", "minimize"] = "maximize"
    by_hand: str = "tuning by hand"
    judges: tuple[str, ...] = ()
    of_best: Callable[[Any], Mapping[str, Any]] = lambda config: {}

    def metric(self, name: str) -> str:
        """Return the metric's name; raise UserError with the nearest when it is none of this space's."""
        if name == "auto":
            return next(iter(self.metrics))
        if name not in self.metrics:
            raise UserError(
                f"metric = '{name}' is none that a study of {self.name} may choose by{nearest_value(name, self.metrics)}; "
                f"use {', '.join(self.metrics)} (accuracy on test images or novel classes would leak)"
            )
        return name

    def base(self, options: Any, **values: Any) -> Any:
        """Return the training's configuration that a study's options describe, with `values` in it."""
        return configuration.fitted(self.stage.config, options, **values)

    def parameters(self, options: Any, base: Any) -> dict[str, Range | Choice]:
        """Return what is searched; raise UserError for bounds that cross and for what cannot be searched."""
        if options.sampler == "grid" and not self.grid:
            raise UserError(f"sampler = grid: tune_{self.name} replaces {self.by_hand}, of which there is no grid; use tpe or random")
        found: dict[str, Range | Choice] = {name: Choice(tuple(values)) for name, values in self.grid.items()}
        if options.sampler != "grid":
            found = {**self.ranges(base), **self._also(options.also, base)}
            found |= _bounded(options.bounds, found)
        for name, parameter in found.items():
            _check(name, parameter)
            default = next(f.default for f in dataclasses.fields(self.stage.config) if f.name == name)
            if getattr(base, name) != default:
                raise UserError(
                    f"{name} = {getattr(base, name)} is what this study searches ({parameter}); leave it out or narrow `bounds`"
                )
        return found

    def _also(self, text: str, base: Any) -> Parameters:
        known = self.also(base)
        chosen: dict[str, Range | Choice] = {}
        for name in filter(None, text.split(",")):
            if name not in known:
                raise UserError(f"also = '{text}': '{name}' cannot be searched{nearest(name, known)}; choose from {', '.join(known)}")
            chosen[name] = known[name]
        return chosen

    def points(self, seed: int) -> list[dict[str, Any]]:
        """Return the points of the grid in a random order that the seed fixes: a part of the grid is then a fair sample of it."""
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        random.Random(seed).shuffle(points)
        return points

    def signature(self, options: Any, base: Any, parameters: Parameters, inputs: dict[str, str]) -> dict[str, str]:
        """Return all that must be equal for two commands to work on the same study, as text by name."""
        own = {f.name for f in dataclasses.fields(self.stage.config)}
        described = {"space": self.name, "metric": self.metric(options.metric), "direction": self.direction}
        described |= {name: str(parameter) for name, parameter in parameters.items()}
        described |= {name: str(getattr(options, name)) for name in self.judges}
        tuning = configuration.canonical(options, results_only=True)
        described |= {name: str(value) for name, value in tuning.items() if name not in own | set(described) | {"bounds", "also"}}
        fixed = configuration.canonical(base, results_only=True)
        read = {f.name for f in dataclasses.fields(base) if f.metadata["role"] or f.metadata["digest"] in inputs}  # their digests count
        described |= {name: str(value) for name, value in fixed.items() if name not in described and name not in read}
        return described | {f"digest of {name}": value[:16] for name, value in inputs.items()}


def _check(name: str, parameter: Range | Choice) -> None:
    if isinstance(parameter, Choice):
        return
    if not parameter.low <= parameter.high:
        raise UserError(f"bounds of {name} cross: {parameter.low:g} is above {parameter.high:g}; swap them")
    if parameter.log and parameter.low <= 0:
        raise UserError(f"bounds of {name}: it is drawn on a logarithmic scale, so {parameter.low:g} must be above 0")
    if parameter.whole and (parameter.low % 1 or parameter.high % 1):
        raise UserError(f"bounds of {name}: {parameter.low:g}:{parameter.high:g} must be whole numbers")


def _bounded(text: str, parameters: Parameters) -> dict[str, Range]:
    """Return the ranges that `name=low:high,...` narrows or widens."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, pair = part.partition("=")
        if name not in parameters:
            raise UserError(f"bounds: '{name}' is not searched{nearest(name, parameters)}; searched are {', '.join(parameters)}")
        try:
            low, high = (float(number) for number in pair.split(":"))
        except ValueError:
            low = high = math.nan
        known = parameters[name]
        if isinstance(known, Choice) or not (math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"bounds: '{part}' is not understood; write name=low:high with two numbers, for an option that has a range")
        whole = known.whole and not (low % 1 or high % 1)
        found[name] = dataclasses.replace(known, low=int(low) if whole else low, high=int(high) if whole else high)
    return found
