import colorsys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from core.data.corruptions import CORRUPTIONS, SEVERITIES, TABLES, amount, corrupt, disk
from core.errors import UserError

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur"}


def scenes(n: int = 3, side: int = 48) -> torch.Tensor:
    """Return smooth pictures with an edge, like photographs in what blur and JPEG do to them."""
    noise = np.random.default_rng(0).normal(size=(n, 3, side, side))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2))
    smooth = 0.5 + 0.15 * smooth / smooth.std()
    smooth[..., side // 3 : side // 2] += 0.3
    return torch.from_numpy((smooth.clip(0, 1) * 255).astype(np.uint8))


def test_there_are_eight_and_each_has_its_table():
    assert set(CORRUPTIONS) == set(TABLES) and len(CORRUPTIONS) == 8


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [24, 48, 112])
def test_higher_severities_do_more(name, side):
    images = scenes(2, side)
    errors = [(corrupt(images, name, severity).float() - images.float()).abs().mean().item() for severity in SEVERITIES]
    assert errors[0] > 0 and all(a < b + 1e-6 for a, b in pairwise(errors)) and errors[4] > 1.3 * errors[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_every_batch(name):
    images, keys = scenes(4), ["a", "b", "c", "d"]
    together = corrupt(images, name, 3, 7, keys)
    assert together.dtype == torch.uint8 and together.shape == images.shape
    order = [2, 0]
    assert torch.equal(corrupt(images[order], name, 3, 7, [keys[i] for i in order]), together[order])
    other_seed, other_keys = corrupt(images, name, 3, 8, keys), corrupt(images, name, 3, 7, ["e", "f", "g", "h"])
    assert (not torch.equal(other_seed, together)) == (not torch.equal(other_keys, together)) == (name in RANDOM)


def test_the_input_is_left_alone_and_no_image_is_no_error():
    images = scenes(1)
    before = images.clone()
    for name in CORRUPTIONS:
        corrupt(images, name, 5)
        assert corrupt(images[:0], name, 5).shape == (0, 3, 48, 48)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", TABLES)
def test_published_parameters_hold_at_the_published_sizes(name):
    small, large = TABLES[name]
    for severity in SEVERITIES:
        assert amount(name, severity, 32) == pytest.approx(small[severity - 1]) == amount(name, severity, 16)
        assert amount(name, severity, 224) == pytest.approx(large[severity - 1]) == amount(name, severity, 448)
        assert min(small[severity - 1], large[severity - 1]) <= amount(name, severity, 96) <= max(small[severity - 1], large[severity - 1])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noises_have_the_strength_of_their_table(severity):
    grey = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    value = 128 / 255
    noise = corrupt(grey, "gaussian_noise", severity).float() / 255 - value
    assert noise.std().item() == pytest.approx(TABLES["gaussian_noise"][0][severity - 1], rel=0.05)
    shot = corrupt(grey, "shot_noise", severity).float() / 255
    assert shot.std().item() == pytest.approx(np.sqrt(value / TABLES["shot_noise"][0][severity - 1]), rel=0.05)
    assert shot.mean().item() == pytest.approx(value, abs=0.01)
    hit = corrupt(grey, "impulse_noise", severity)
    assert (hit != 128).float().mean().item() == pytest.approx(TABLES["impulse_noise"][0][severity - 1], rel=0.2)
    assert set(hit.unique().tolist()) == {0, 128, 255}


def test_impulses_of_a_lower_severity_are_hit_by_the_higher_ones_too():
    images = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    hits = [corrupt(images, "impulse_noise", severity) != 128 for severity in SEVERITIES]
    assert all((high | ~low).all() for low, high in pairwise(hits))


def test_brightness_raises_the_value_of_hsv():
    images = scenes(1, 8)
    images[0, :, 0, 0] = 0
    got = corrupt(images, "brightness", 2)
    for row in range(8):
        for column in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*(images[0, :, row, column] / 255).tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.1, 1))
            np.testing.assert_allclose(got[0, :, row, column] / 255, expected, atol=0.5 / 255 + 1e-3)


def test_contrast_pulls_towards_each_channels_mean():
    images = scenes(2, 32)
    x = images.double() / 255
    mean = x.mean((2, 3), keepdim=True)
    np.testing.assert_allclose(corrupt(images, "contrast", 4), ((x - mean) * 0.3 + mean) * 255, atol=0.51)


@pytest.mark.parametrize("radius", [0.2, 0.5, 0.86, 1.5, 4.0, 10.0])
def test_a_disk_covers_its_area_and_sums_to_one(radius):
    kernel = disk(radius)
    assert kernel.sum().item() == pytest.approx(1) and kernel.shape[0] % 2 == 1
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    assert kernel.max() < 1
    if radius >= 1.5:
        assert 1 / kernel.max().item() == pytest.approx(np.pi * radius**2, rel=0.06)


def test_defocus_is_convolution_with_the_disk():
    images = scenes(1, 40)
    kernel = disk(amount("defocus_blur", 5, 40)).numpy()
    expected = np.stack([ndimage.convolve(plane, kernel, mode="nearest") for plane in images[0].double().numpy()])
    np.testing.assert_allclose(corrupt(images, "defocus_blur", 5)[0], expected, atol=0.6)


def test_motion_blurs_along_the_path_and_keeps_the_light():
    dot = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    dot[:, :, 32, 40] = 255
    blurred = corrupt(dot, "motion_blur", 5, seed=1).float()[0, 0]
    rows, columns = torch.nonzero(blurred, as_tuple=True)
    assert len(rows) >= 6 and (columns.max() - columns.min()) >= (rows.max() - rows.min())
    flat = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    assert torch.equal(corrupt(flat, "motion_blur", 5), flat)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no corruption 'gaussian_nois'; did you mean 'gaussian_noise'"):
        corrupt(scenes(1), "gaussian_nois", 1)
    for severity in (0, 6):
        with pytest.raises(UserError, match="severity must be"):
            corrupt(scenes(1), "jpeg", severity)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(scenes(1).float(), "jpeg", 1)
    with pytest.raises(ValueError, match="2 keys for 1 images"):
        corrupt(scenes(1), "jpeg", 1, keys=["a", "b"])
