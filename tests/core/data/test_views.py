import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from core.data import views
from core.data.images import ArrayImages
from core.data.views import N_PARAMETERS, ViewSpec, augment, draw_parameters, evaluation_view, resize_all
from core.errors import UserError

SPEC = ViewSpec(image_size=12, resize=16)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (21, 3, 16, 16), np.uint8))
LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain_view(image: np.ndarray, parameters: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """One view of one image (3,R,R), one step after the other, in the order the words say it."""
    top, left, flip, brightness, contrast, saturation, hue = (float(p) for p in parameters)
    size = spec.image_size
    pixels = image[:, int(top) : int(top) + size, int(left) : int(left) + size].transpose(1, 2, 0) / 255.0
    if flip:
        pixels = pixels[:, ::-1]
    pixels = brightness * pixels
    pixels = contrast * pixels + (1 - contrast) * (pixels @ LUMA).mean()
    pixels = saturation * pixels + (1 - saturation) * (pixels @ LUMA)[..., None]
    y, i, q = np.moveaxis(pixels @ YIQ.T, -1, 0)
    turn = 2 * np.pi * hue
    i, q = np.cos(turn) * i - np.sin(turn) * q, np.sin(turn) * i + np.cos(turn) * q
    pixels = np.stack([y, i, q], axis=-1) @ np.linalg.inv(YIQ).T
    pixels = (np.clip(pixels, 0, 1) - spec.mean) / spec.std
    return pixels.transpose(2, 0, 1)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 21), st.sampled_from([8, 12, 15, 16]))
def test_the_batched_view_equals_the_plain_one(seed, n, size):
    spec = dataclasses.replace(SPEC, image_size=size, hue=0.5, gray_prob=0.2)
    parameters = draw_parameters(spec, n, 1, rng(seed))[:, 0]
    got = augment(IMAGES[:n], parameters, spec)
    assert got.shape == (n, 3, size, size) and got.dtype == torch.float32
    for view, image, row in zip(got.numpy(), IMAGES.numpy(), parameters, strict=False):
        np.testing.assert_allclose(view, plain_view(image, row, spec), atol=2e-5)


@pytest.mark.parametrize(
    ("column", "reference", "factor"),
    [
        (views.BRIGHTNESS, tv.adjust_brightness, 0.7),
        (views.CONTRAST, tv.adjust_contrast, 0.6),
        (views.SATURATION, tv.adjust_saturation, 0.5),
    ],
)
def test_each_colour_change_agrees_with_torchvision(column, reference, factor):
    spec = ViewSpec(image_size=16, resize=16, mean=(0, 0, 0), std=(1, 1, 1))
    parameters = views.evaluation_parameters(spec, len(IMAGES))
    parameters[:, column] = factor
    expected = reference(IMAGES.float() / 255, factor)
    torch.testing.assert_close(augment(IMAGES, parameters, spec), expected, atol=1e-3, rtol=0)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.floats(-0.5, 0.5), st.integers(0, 255))
def test_hue_keeps_grey_grey_and_brightness_the_same(hue, level):
    spec = ViewSpec(image_size=4, resize=4, mean=(0, 0, 0), std=(1, 1, 1))
    parameters = views.evaluation_parameters(spec, 2)
    parameters[:, views.HUE] = hue
    images = torch.full((2, 3, 4, 4), level, dtype=torch.uint8)
    torch.testing.assert_close(augment(images, parameters, spec), images.float() / 255, atol=1e-5, rtol=0)
    images[1, 0] = 120
    images[1, 1:] = 128
    luma = torch.einsum("c,chw->hw", torch.tensor(LUMA, dtype=torch.float32), augment(images, parameters, spec)[1])
    torch.testing.assert_close(luma, torch.full((4, 4), (0.299 * 120 + 0.701 * 128) / 255), atol=1e-4, rtol=0)


def test_a_grey_view_has_three_equal_channels():
    spec = dataclasses.replace(SPEC, gray_prob=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    view = augment(IMAGES, draw_parameters(spec, len(IMAGES), 1, rng())[:, 0], spec)
    torch.testing.assert_close(view[:, 0], view[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(view[:, 0], view[:, 2], atol=1e-5, rtol=0)


def test_the_evaluation_view_is_the_normalised_centre():
    expected = tv.normalize(IMAGES[:, :, 2:14, 2:14].float() / 255, SPEC.mean, SPEC.std)
    torch.testing.assert_close(evaluation_view(IMAGES, SPEC), expected, atol=1e-5, rtol=0)


def test_indexing_for_the_gpu_gives_the_same_crops():
    parameters = draw_parameters(SPEC, len(IMAGES), 1, rng())[:, 0]
    by_rows = torch.empty(len(IMAGES), 3, 12, 12)
    views._crop(IMAGES, parameters, by_rows)
    gathered = views._gather_crop(IMAGES, *parameters[:, :3].astype(np.int64).T, 12)
    torch.testing.assert_close(gathered.float(), by_rows)


def test_views_are_written_where_asked_and_the_thread_setting_stays():
    out, threads = torch.full((5, 3, 12, 12), -99.0), torch.get_num_threads()
    result = augment(IMAGES[:3], views.evaluation_parameters(SPEC, 3), SPEC, out=out[1:4])
    assert (out[[0, 4]] == -99).all() and torch.equal(out[1:4], result)
    assert torch.get_num_threads() == threads


def test_parameters_stay_in_their_ranges():
    drawn = draw_parameters(SPEC, 2000, 2, rng())
    assert drawn.shape == (2000, 2, N_PARAMETERS) and drawn.dtype == np.float32
    assert drawn[..., :2].min() == 0 and drawn[..., :2].max() == 4
    assert abs(drawn[..., views.FLIP].mean() - 0.5) < 0.05
    colours = drawn[..., 3:6]
    assert colours.min() >= 0.6 and colours.max() <= 1.4 and np.abs(drawn[..., views.HUE]).max() <= 0.1
    untouched = (drawn[..., 3:] == np.array([1, 1, 1, 0], np.float32)).all(-1)
    assert abs(untouched.mean() - 0.2) < 0.03


def test_the_same_generator_gives_the_same_views_and_another_does_not():
    assert np.array_equal(draw_parameters(SPEC, 9, 2, rng(1)), draw_parameters(SPEC, 9, 2, rng(1)))
    assert not np.array_equal(draw_parameters(SPEC, 9, 2, rng(1)), draw_parameters(SPEC, 9, 2, rng(2)))


def test_one_option_leaves_the_draws_of_the_others_alone():
    plain = dataclasses.replace(SPEC, flip_prob=0.0, gray_prob=0.5)
    first, second = draw_parameters(SPEC, 50, 2, rng()), draw_parameters(plain, 50, 2, rng())
    kept = [views.TOP, views.LEFT, views.BRIGHTNESS, views.CONTRAST, views.HUE]
    assert np.array_equal(first[..., kept], second[..., kept]) and not second[..., views.FLIP].any()


def test_centre_crops_do_not_move():
    drawn = draw_parameters(dataclasses.replace(SPEC, crop="centre"), 9, 2, rng())
    assert (drawn[..., :2] == 2).all()


@pytest.mark.parametrize("size", [(32, 32), (40, 28), (9, 14)])
def test_resizing_agrees_with_pillow(size):
    ramp = np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 4)
    image = np.stack([ramp, 255 - ramp, (ramp * 7) % 256], axis=-1).astype(np.uint8)
    got = resize_all(ArrayImages(image[None]), SPEC).batch(np.array([0]))[0].permute(1, 2, 0).numpy()
    side, (height, width) = min(size), size
    top, left = (height - side) // 2, (width - side) // 2
    expected = Image.fromarray(image[top : top + side, left : left + side]).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(got.astype(int) - np.asarray(expected)).max() <= 2


class Mixed:
    """Images of different sizes, as files have them."""

    digest = "mixed"

    def __init__(self):
        self.images = [rng(i).integers(0, 256, (10 + i, 20 - i, 3), np.uint8) for i in range(6)]

    def __len__(self):
        return len(self.images)

    def load(self, indices):
        return [self.images[i] for i in indices]


@pytest.mark.parametrize("source", [Mixed(), ArrayImages(rng().integers(0, 256, (6, 10, 10, 3), np.uint8))], ids=["files", "array"])
def test_images_in_memory_and_on_demand_are_the_same(source):
    kept, on_demand = resize_all(source, SPEC), resize_all(source, SPEC, memory_limit=0)
    assert kept.pixels is not None and on_demand.pixels is None and len(kept) == len(on_demand) == 6
    for indices in (np.array([4, 0, 0]), np.arange(6), np.zeros(0, np.int64)):
        assert torch.equal(kept.batch(indices), on_demand.batch(indices))
        assert kept.batch(indices).shape == (len(indices), 3, 16, 16)


def test_the_resized_side_follows_the_view():
    assert ViewSpec().resize == 256 and ViewSpec(image_size=96).resize == 110


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"resize": 11},
        {"crop": "middle"},
        {"interpolation": "lanczos"},
        {"flip_prob": 1.5},
        {"gray_prob": float("nan")},
        {"hue": 0.6},
        {"brightness": -1.0},
    ],
)
def test_options_out_of_range_are_user_errors(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(SPEC, **change)
