"""Cosines, view-major rows, and the zero that still runs backward."""

import pytest
import torch

from core.losses._similarity import check, cosine, full_precision, weighted_mean, zero_with_graph


def test_cosines_are_in_full_precision_and_a_zero_row_has_none():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(cosine(a, b), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_float64_stays_and_half_precision_is_widened():
    assert full_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert full_precision(torch.zeros(1, dtype=torch.float16)).dtype == torch.float32


def test_the_batch_is_the_rows_over_the_views():
    assert check(torch.zeros(6, 2), 3, 0.1) == 2
    assert check(torch.zeros(6, 2), 3, 0.1, 2) == 2


@pytest.mark.parametrize(
    ("rows", "n_views", "temperature", "n_samples", "line"),
    [(5, 2, 0.1, None, "are not 2 views"), (4, 2, 0.1, 3, "3 labels for 2 samples"), (4, 2, 0.0, None, "temperature must be above 0")],
)
def test_what_does_not_fit_is_refused(rows, n_views, temperature, n_samples, line):
    with pytest.raises(ValueError, match=line):
        check(torch.zeros(rows, 2), n_views, temperature, n_samples)


def test_the_zero_of_an_empty_batch_has_a_gradient_of_zeros():
    x = torch.ones(2, 3, requires_grad=True)
    zero_with_graph(x).backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0] * 3] * 2


def test_weights_that_are_all_zero_give_zero():
    losses = torch.tensor([1.0, 4.0], requires_grad=True)
    assert weighted_mean(losses, torch.tensor([3, 1])).item() == 1.75
    nothing = weighted_mean(losses, torch.zeros(2))
    nothing.backward()
    assert nothing.item() == 0.0 and losses.grad is not None and losses.grad.tolist() == [0.0, 0.0]
