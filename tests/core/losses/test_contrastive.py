"""One suite for what every loss over views must keep: InfoNCE, SupCon and prototypical cross-entropy."""

import pytest
import torch

from core.losses.info_nce import info_nce
from core.losses.prototypical import prototypical
from core.losses.supcon import supcon

PROTOTYPES = torch.randn(3, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

LOSSES = {
    "info_nce": lambda z, y, v, t, keep=None, weights=None: info_nce(z, v, t, keep),
    "supcon": lambda z, y, v, t, keep=None, weights=None: supcon(z, y, v, t, keep, weights),
    "prototypical": lambda z, y, v, t, keep=None, weights=None: prototypical(
        z, y, PROTOTYPES.to(z.dtype if z.dtype == torch.float64 else torch.float32), t, keep, weights, v
    ),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def rows(batch: int, n_views: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_views * batch, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
KEEP = torch.tensor([True, True, False, True, True, True])
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.1, 0.7, 0.3], dtype=torch.float64)


@every_loss
@pytest.mark.parametrize("n_views", [2, 3])
def test_gradients_are_right(loss, n_views):
    z = rows(6, n_views).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, LABELS, n_views, 0.5, KEEP, WEIGHTS), z)


@every_loss
def test_the_order_of_samples_does_not_matter(loss):
    z, order = rows(6, 2), torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = z.reshape(2, 6, 5)[:, order].reshape(12, 5)
    expected = loss(z, LABELS, 2, 0.2, KEEP, WEIGHTS)
    torch.testing.assert_close(loss(shuffled, LABELS[order], 2, 0.2, KEEP[order], WEIGHTS[order]), expected)


@every_loss
def test_the_order_of_views_does_not_matter(loss):
    z = rows(6, 2)
    torch.testing.assert_close(loss(z.roll(6, dims=0), LABELS, 2, 0.2), loss(z, LABELS, 2, 0.2))


@every_loss
def test_lengths_of_projections_do_not_matter(loss):
    z = rows(6, 2)
    torch.testing.assert_close(loss(z * torch.arange(1, 13)[:, None], LABELS, 2, 0.2), loss(z, LABELS, 2, 0.2))


@every_loss
def test_samples_that_are_not_kept_do_not_exist(loss):
    z = rows(6, 2)
    kept = z.reshape(2, 6, 5)[:, KEEP].reshape(10, 5)
    torch.testing.assert_close(loss(z, LABELS, 2, 0.2, KEEP), loss(kept, LABELS[KEEP], 2, 0.2))


@every_loss
def test_nothing_kept_is_zero_and_still_runs_backward(loss):
    z = rows(6, 2).requires_grad_()
    value = loss(z, LABELS, 2, 0.2, torch.zeros(6, dtype=torch.bool))
    value.backward()
    assert value.item() == 0.0 and z.grad.abs().sum() == 0.0


@every_loss
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_tiny_batches_and_low_temperatures_stay_finite(loss, batch):
    z = rows(batch, 2).float().requires_grad_()
    value = loss(z, LABELS[:batch], 2, 0.01)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()


@every_loss
def test_half_precision_is_computed_in_float32(loss):
    z = rows(6, 2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z, LABELS, 2, 0.07)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(z.float(), LABELS, 2, 0.07))


@every_loss
def test_equal_projections_give_finite_gradients(loss):
    z = torch.ones(12, 5, requires_grad=True)
    loss(z, LABELS, 2, 0.07).backward()
    assert z.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("n_views, temperature, message", [(5, 0.1, "views"), (2, 0.0, "temperature")])
def test_bad_arguments_are_refused(loss, n_views, temperature, message):
    with pytest.raises(ValueError, match=message):
        loss(rows(6, 2), LABELS, n_views, temperature)
