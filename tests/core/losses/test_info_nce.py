"""InfoNCE against the plain double loop."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses.info_nce import info_nce
from tests.core.losses import plain


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(2, 4), st.floats(0.1, 1.0))
def test_it_is_the_plain_formula(keep, n_views, temperature):
    z = torch.randn(n_views * len(keep), 4, generator=torch.Generator().manual_seed(len(keep)), dtype=torch.float64)
    got = info_nce(z, n_views, temperature, torch.tensor(keep))
    assert got.item() == pytest.approx(plain.info_nce(z.tolist(), n_views, temperature, keep), abs=1e-9)


def test_two_views_are_cross_entropy_with_the_other_view_as_class():
    z = F.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    torch.testing.assert_close(info_nce(z, 2, 0.5), F.cross_entropy(logits, torch.arange(10).roll(5)))


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="at least 2 views"):
        info_nce(torch.randn(4, 3), 1, 1.0)
