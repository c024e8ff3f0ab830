"""A study in pictures: Optuna's own plots, made readable, each left out where a study has too little for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure, FigureBase
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState

from core.plots import figure as figures
from tuning.space import Parameters

LEAST = 2  # complete trials; below that no plot has anything to say


def write(folder: Path, study: optuna.Study, metric: str, parameters: Parameters) -> list[str]:
    """Write history, slice, parallel-coordinates, contour and importance plots as PNG; return the names written."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [name for name in parameters if len({trial.params.get(name) for trial in complete}) > 1]
    if len(complete) < LEAST or not varied:
        return []
    matplotlib.use("Agg")
    made = {"history": history, "slice": slices}
    if len(varied) > 1:
        made |= {"parallel_coordinates": parallel_coordinates, "contour": contour}
        if np.ptp([trial.value for trial in complete]) > 0:
            made["importances"] = importances
    for name, draw in made.items():
        _save(draw, folder / f"{name}.png", study, metric, varied)
    return sorted(made)


def _save(draw: Callable[..., Figure], path: Path, *arguments: Any) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Optuna lays its figures out by hand; what sticks out is kept by the tight box.
        draw(*arguments).savefig(path, format="png", dpi=figures.DPI, bbox_inches="tight", metadata={"Software": None})
    finally:
        plt.close("all")


def history(study: optuna.Study, metric: str, _varied: list[str]) -> Figure:
    """Draw every trial's value and the best so far."""
    axes = optuna.visualization.matplotlib.plot_optimization_history(study, target_name=metric)
    for line in axes.lines:
        line.set_drawstyle("steps-post")  # the best value changes when a trial ends, not on the way there
    return _sized(axes.figure, (8, 4.5))


def slices(study: optuna.Study, metric: str, varied: list[str]) -> Figure:
    """Draw the value against each option, coloured by the trial's number."""
    axes = optuna.visualization.matplotlib.plot_slice(study, params=varied, target_name=metric)
    return _sized(np.ravel(np.asarray(axes))[0].figure, (3.6 * len(varied) + 1.5, 4.2))


def parallel_coordinates(study: optuna.Study, metric: str, varied: list[str]) -> Figure:
    """Draw every trial as a line through its options' values."""
    axes = optuna.visualization.matplotlib.plot_parallel_coordinate(study, params=varied, target_name=metric)
    for other in axes.figure.axes:
        other.grid(False)  # each option has its own scale: grid lines of all of them say nothing
    return _sized(axes.figure, (2.2 * len(varied) + 4, 5))


def contour(study: optuna.Study, metric: str, varied: list[str]) -> Figure:
    """Draw the value over each pair of options."""
    axes = np.asarray(optuna.visualization.matplotlib.plot_contour(study, params=varied, target_name=metric))
    side = 6.5 if len(varied) == 2 else 2.6 * len(varied)
    return _sized(axes.ravel()[0].figure, (side + 1.5, side))


def importances(study: optuna.Study, metric: str, varied: list[str]) -> Figure:
    """Draw how much of the value's variance each option explains (fANOVA, Hutter et al. 2014)."""
    evaluator = FanovaImportanceEvaluator(seed=0)
    axes = optuna.visualization.matplotlib.plot_param_importances(study, evaluator=evaluator, params=varied, target_name=metric)
    return _sized(axes.figure, (8, 1.2 + 0.5 * len(varied)))


def _sized(figure: FigureBase | None, inches: tuple[float, float]) -> Figure:
    if not isinstance(figure, Figure):
        raise TypeError(f"Optuna drew on {type(figure).__name__}, not on a figure of its own")
    figure.set_size_inches(*inches)
    return figure
