import numpy as np
import pytest

from core.data import digits
from core.errors import UserError


def test_digits_are_real_rgb_images_with_a_fixed_stratified_split():
    data = digits.load()
    assert (len(data.train), len(data.test)) == (1347, 450)
    assert data.known_classes == set(range(7)) and data.novel_classes == {7, 8, 9}
    image = data.train.source.load(np.array([0]))
    assert image.shape == (1, 8, 8, 3) and image.dtype == np.uint8
    assert data.train.source.pixels.max() == 255
    assert np.bincount(data.test.labels).min() >= 43
    assert data.digest == digits.load().digest


def test_train_and_test_share_no_record():
    data = digits.load()
    numbers = [image_id.split("/")[1] for part in (data.train, data.test) for image_id in part.ids]
    assert len(set(numbers)) == 1797


def test_novel_digits_can_be_chosen():
    assert digits.load("0, 1").novel_classes == {0, 1}
    assert digits.load("0").digest != digits.load("1").digest
    with pytest.raises(UserError, match="no class 'x'"):
        digits.load("x")
