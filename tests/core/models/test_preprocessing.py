"""What published configurations say of images, in the terms of this project's views."""

import pytest

from core.errors import UserError
from core.models.preprocessing import CLIP_MEAN, OLDER, Preprocessing, of_open_clip, of_transformers


def test_what_open_clip_leaves_out_is_clips():
    assert of_open_clip({}, "w") == Preprocessing()
    said = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    assert of_open_clip(said, "w") == Preprocessing((0.5,) * 3, (0.25,) * 3, "bilinear", 1.0, "squash")


def test_transformers_margin_is_the_resized_side_over_the_crop():
    said = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 2, "do_center_crop": True}
    found = of_transformers(said, "w")
    assert (found.margin, found.interpolation, found.resize_mode) == (256 / 224, "bilinear", "shortest")
    assert found.views(224)["resize"] == 256
    whole = of_transformers({"size": {"height": 384, "width": 384}, "do_center_crop": False}, "w")
    assert (whole.margin, whole.resize_mode, whole.mean) == (1.0, "squash", CLIP_MEAN)


def test_networks_that_say_nothing_lose_an_eighth_of_the_side():
    assert OLDER.views(224)["resize"] == 256 and Preprocessing().views(224)["resize"] == 224


def test_what_is_not_done_here_is_refused():
    with pytest.raises(UserError, match="'w' wants images resized by 'longest'"):
        of_open_clip({"resize_mode": "longest"}, "w")
    with pytest.raises(UserError, match="'w' wants the interpolation '5'"):
        of_transformers({"resample": 5}, "w")
