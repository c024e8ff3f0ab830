"""A diverged training is told by the first tensor that is no number, or whose squares are none."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.training.finite import require_outputs, require_weights


def test_finite_weights_and_whole_numbers_pass():
    require_weights([("w", torch.ones(2)), ("steps", torch.tensor(7)), ("none", torch.zeros(0))], 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_the_first_tensor_and_how_many_more_are_named(value):
    bad = torch.tensor([1.0, value])
    with pytest.raises(UserError, match="diverged in epoch 3: b and 1 more is not finite; lower the learning rate"):
        require_weights([("a", torch.ones(2)), ("b", bad), ("c", bad)], 3)


def test_outputs_pass_as_they_are_or_are_refused():
    values = np.ones((2, 3))
    assert require_outputs(values, "val images") is values
    values[1, 2] = np.inf
    with pytest.raises(UserError, match="outputs for val images are not finite"):
        require_outputs(values, "val images")
