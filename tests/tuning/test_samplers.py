"""Draws: fixed by seed and place, and not again where trials fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from tuning import samplers

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Options:
    sampler: str = "tpe"
    sampler_seed: int = 1
    n_startup_trials: int = 4


def failures(make: Callable[[int], optuna.samplers.BaseSampler], n: int = 30) -> int:
    """Return how many of `n` trials fall where x above 0.4 fails."""
    study = optuna.create_study(direction="maximize")
    for place in range(n):
        study.sampler = make(place)
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        if x > 0.4:
            trial.set_user_attr("reason", "diverged")
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, x)
    return sum(trial.state == TrialState.FAIL for trial in study.trials)


def test_a_region_of_failures_is_avoided():
    def plain(place: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=place, n_startup_trials=4)

    counts = [failures(samplers.maker(Options(sampler_seed=seed))) for seed in range(4)]
    assert sum(counts) < 0.6 * 4 * failures(plain)


def test_what_a_dead_worker_left_teaches_nothing():
    study = optuna.create_study()
    for reason in ({"reason": "diverged"}, {}):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        for key, value in reason.items():
            trial.set_user_attr(key, value)
        study.tell(trial, state=TrialState.FAIL)
    seen = samplers._WithFailures(study)._get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert [(trial.number, trial.state, trial.intermediate_values) for trial in seen] == [(0, TrialState.PRUNED, {})]
    assert study.trials[0].state == TrialState.FAIL


def test_seed_and_place_fix_a_draw():
    def draw(options: Options, place: int) -> float:
        study = optuna.create_study(sampler=samplers.maker(options)(place))
        return study.ask().suggest_float("x", 0.0, 1.0)

    for kind in ("tpe", "random"):
        options = Options(kind)
        assert draw(options, 3) == draw(options, 3)
        assert len({draw(options, 3), draw(options, 4), draw(Options(kind, 2), 3)}) == 3
