"""Features from a kept trunk: those of the first time, in half the memory under bf16."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.data.images import ArrayImages
from core.data.views import ViewSpec, resize_all
from core.evaluation.features import FeatureExtractor

N = 12


class Tokens(nn.Module):
    """Tokens in float32 under autocast, as a ViT's residual stream is; the tail is one more layer."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 5)

    def trunk(self, images: Tensor) -> Tensor:
        return self.first(images.flatten(2)) + torch.ones(1)

    def features(self, tokens: Tensor) -> Tensor:
        assert tokens.dtype == torch.float32
        return (tokens + self.last(tokens).mean(dim=2, keepdim=True)).mean(dim=1)


def extractor(autocast, cache_bytes: int = 1 << 20) -> FeatureExtractor:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    spec = ViewSpec(image_size=8, resize=8)
    return FeatureExtractor(resize_all(ArrayImages(pixels), spec), spec, torch.device("cpu"), autocast, 5, cache_bytes, 0)


BF16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize(("autocast", "itemsize"), [(nullcontext, 4), (BF16, 2)])
def test_a_kept_trunk_gives_the_features_of_the_first_time_in_its_number_format(autocast, itemsize):
    kept, model = extractor(autocast), Tokens()
    first = kept.extract(model)
    assert sum(part.nbytes for part in kept.cached) == N * 3 * 8 * itemsize
    assert np.array_equal(kept.extract(model), first)
    without = extractor(autocast, cache_bytes=0)
    assert np.array_equal(without.extract(model), first) and without.cached is None
    plain = extractor(nullcontext).extract(model)
    assert np.array_equal(plain, first) if itemsize == 4 else np.allclose(plain, first, rtol=2**-6, atol=2**-6)


def test_the_memory_that_is_left_counts_what_is_kept():
    room = N * 3 * 8 * 2  # enough in bf16, not in float32
    kept, too_much = extractor(BF16, room), extractor(nullcontext, room)
    kept.extract(Tokens()), too_much.extract(Tokens())
    assert kept.cached is not None and too_much.cached is None
