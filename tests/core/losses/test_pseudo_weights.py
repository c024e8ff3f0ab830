"""Density weights against the specification's formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.pseudo_weights import MODES, density_weights


def plain_weights(densities: list[float], mode: str) -> list[float]:
    n = len(densities)
    weights = []
    for i, d in enumerate(densities):
        rank = 1 + sum(e < d or (e == d and j < i) for j, e in enumerate(densities))
        w = 1 / (1 + math.exp(-12 * (rank / n - 0.5)))
        weights.append({"none": 1.0, "density": w, "inverse_density": min(max(1 - w, 0.2), 0.8)}[mode])
    return weights


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20), st.sampled_from(MODES))
def test_weights_are_those_of_the_plain_formula(densities, mode):
    got = density_weights(torch.tensor(densities, dtype=torch.float64), mode)
    assert got.tolist() == pytest.approx(plain_weights(densities, mode), abs=1e-12)


def test_the_densest_weighs_most_and_least_when_inverted():
    densities = torch.tensor([3.0, 1.0, 2.0])
    assert density_weights(densities, "density").argsort().tolist() == [1, 2, 0]
    inverse = density_weights(densities, "inverse_density")
    assert inverse.argsort().tolist() == [0, 2, 1]
    assert inverse.min() >= 0.2 and inverse.max() <= 0.8


@pytest.mark.parametrize("mode", MODES)
def test_no_samples_give_no_weights(mode):
    assert density_weights(torch.empty(0), mode).shape == (0,)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="pseudo_weight_mode=dense"):
        density_weights(torch.ones(3), "dense")
    with pytest.raises(ValueError, match="shape"):
        density_weights(torch.ones(3, 1), "density")
