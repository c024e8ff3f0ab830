"""How values are drawn: seeded by study and trial, and away from where trials fail."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from core import digest


def maker(options: Any) -> Callable[[int], BaseSampler]:
    """Return the maker of samplers from a trial's place: no two workers, nor one that resumes, draw the same values again."""

    def make(place: int) -> BaseSampler:
        seed = int(digest.of_json([options.sampler_seed, place])[:8], 16)
        if options.sampler == "tpe":
            return AvoidingTPESampler(seed=seed, n_startup_trials=options.n_startup_trials)
        return RandomSampler(seed=seed)

    return make


class AvoidingTPESampler(TPESampler):
    """TPE (Bergstra et al. 2011) that counts trials which failed with a reason as its worst.

    Optuna's own leaves failed trials out, so that it draws from a region of diverging learning rates again and again.
    """

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Draw jointly."""
        return super().sample_relative(_with_failures(study), trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Draw one option."""
        return super().sample_independent(_with_failures(study), trial, param_name, param_distribution)


class _WithFailures:
    """A study whose failed trials look like trials that were pruned before their first epoch: worse than all others."""

    def __init__(self, study: optuna.Study):
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
        failed = self._study._get_trials(deepcopy=False, states=(TrialState.FAIL,), use_cache=use_cache)
        return [*trials, *(_as_worst(trial) for trial in failed if "reason" in trial.user_attrs)]


def _with_failures(study: optuna.Study) -> optuna.Study:
    return cast(optuna.Study, _WithFailures(study))  # it answers for the study in everything that a sampler asks


def _as_worst(trial: FrozenTrial) -> FrozenTrial:
    worst = copy.copy(trial)
    worst.state, worst.values, worst.intermediate_values = TrialState.PRUNED, None, {}
    return worst
