"""Affine warps against a plain per-pixel formula, their limits, and where views use them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from core.data import views
from core.data.views import ViewSpec, augment, draw_parameters, evaluation_parameters, evaluation_view
from core.data.warp import ANGLE, N_WARP, SCALE_X, SCALE_Y, SHEAR, SHIFT_X, SHIFT_Y, draw, warp

SIZE = 7
NONE = {ANGLE: 0.0, SCALE_X: 1.0, SCALE_Y: 1.0, SHEAR: 0.0, SHIFT_X: 0.0, SHIFT_Y: 0.0}


def images(n: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8))


def parameters(n: int = 2, **changed) -> np.ndarray:
    """Parameters of no warp, but for the columns named."""
    row = NONE | {globals()[name.upper()]: value for name, value in changed.items()}
    return np.array([[row[column] for column in range(N_WARP)]] * n, np.float32)


def plain(image: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Bilinear lookup of every output pixel's source, black outside; coordinates -1..1 over the image's edges."""
    result = np.zeros(image.shape, np.float64)
    c, s = math.cos(p[ANGLE]), math.sin(p[ANGLE])
    for row in range(SIZE):
        for column in range(SIZE):
            x, y = (2 * column + 1) / SIZE - 1, (2 * row + 1) / SIZE - 1
            from_x = p[SCALE_X] * c * x + (-s + p[SHEAR]) * y + p[SHIFT_X]
            from_y = s * x + p[SCALE_Y] * c * y + p[SHIFT_Y]
            at_x, at_y = ((from_x + 1) * SIZE - 1) / 2, ((from_y + 1) * SIZE - 1) / 2
            for j in (math.floor(at_y), math.floor(at_y) + 1):
                for i in (math.floor(at_x), math.floor(at_x) + 1):
                    if 0 <= i < SIZE and 0 <= j < SIZE:
                        result[:, row, column] += (1 - abs(at_x - i)) * (1 - abs(at_y - j)) * image[:, j, i]
    return result


def test_the_identity_changes_nothing():
    torch.testing.assert_close(warp(images(), parameters()), images().float(), atol=1e-3, rtol=0)


def test_a_shift_by_whole_pixels_moves_the_picture_and_leaves_black():
    moved = warp(images(), parameters(shift_x=2 / SIZE))
    torch.testing.assert_close(moved[..., :-1], images()[..., 1:].float(), atol=1e-3, rtol=0)
    assert moved[..., -1].abs().max() < 1e-3


def test_a_quarter_turn_is_a_rotation_of_the_grid():
    torch.testing.assert_close(warp(images(), parameters(angle=math.pi / 2)), torch.rot90(images().float(), 1, (2, 3)), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "changed",
    [{"angle": 0.3}, {"scale_x": 1.3}, {"scale_y": 0.8}, {"shear": 0.2}, {"shift_y": -0.37}, {"angle": -0.2, "scale_x": 0.9, "shear": 0.1}],
)
def test_it_is_the_plain_formula(changed):
    p = parameters(**changed)
    wanted = np.stack([plain(image, p[0].astype(np.float64)) for image in images().numpy()])
    np.testing.assert_allclose(warp(images(), p).numpy(), wanted, atol=1e-2)


def test_each_image_has_its_own_warp():
    p = np.concatenate([parameters(1), parameters(1, angle=0.4)])
    both = warp(images(), p)
    torch.testing.assert_close(both[1:], warp(images()[1:], p[1:]))
    torch.testing.assert_close(both[:1], images()[:1].float(), atol=1e-3, rtol=0)


def test_draws_stay_within_their_limits_and_reach_for_them():
    drawn = draw((4000,), 15.0, 0.2, 0.1, 0.12, np.random.default_rng(0))
    centre = np.array([NONE[column] for column in range(N_WARP)])
    limits = np.array([math.radians(15), 0.2, 0.2, 0.1, 0.24, 0.24])
    spread = np.abs(drawn - centre).max(axis=0)
    assert (spread <= limits + 1e-6).all() and (spread > 0.98 * limits).all()


def test_draws_follow_their_generator():
    one, same, other = (draw((3, 2), 15.0, 0.1, 0.1, 0.1, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert one.dtype == np.float32 and one.shape == (3, 2, N_WARP)


def test_strength_nought_draws_no_warp():
    assert np.array_equal(draw((5,), 0.0, 0.0, 0.0, 0.0, np.random.default_rng(0)), parameters(5))


@pytest.mark.parametrize("strength", [{"rotate": 15.0}, {"scale": 0.1}, {"shear": 0.1}, {"shift": 0.1}])
def test_views_with_any_warp_have_thirteen_columns_and_the_first_seven_as_without(strength):
    still = ViewSpec(image_size=6, resize=SIZE)
    moving = dataclasses.replace(still, **strength)
    with_warp, without = (draw_parameters(spec, 5, 2, np.random.default_rng(3)) for spec in (moving, still))
    assert with_warp.shape == (5, 2, 13) and without.shape == (5, 2, views.N_PARAMETERS)
    assert np.array_equal(with_warp[..., : views.N_PARAMETERS], without)


def test_a_view_is_the_warped_picture_seen_plainly():
    spec = ViewSpec(image_size=SIZE, resize=SIZE, rotate=20.0)
    p = np.concatenate([evaluation_parameters(spec, 2), parameters(angle=0.3)], axis=1)
    warped = warp(images(), parameters(angle=0.3)) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    torch.testing.assert_close(augment(images(), p, spec), (warped - mean) / std, atol=1e-4, rtol=1e-4)


def test_the_evaluation_view_is_never_warped():
    still = ViewSpec(image_size=6, resize=SIZE)
    moving = dataclasses.replace(still, rotate=30.0, scale=0.3, shear=0.3, shift=0.3)
    assert torch.equal(evaluation_view(images(), moving), evaluation_view(images(), still))
    assert evaluation_parameters(moving, 4).shape == (4, views.N_PARAMETERS)
