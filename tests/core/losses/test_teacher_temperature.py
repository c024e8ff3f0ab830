"""The teacher's temperature over the epochs against SimGCD's list."""

import numpy as np
import pytest

from core.losses.teacher_temperature import teacher_temperature


def test_it_is_simgcd_s_schedule_over_200_epochs():
    wanted = np.concatenate([np.linspace(0.07, 0.04, 30), np.full(170, 0.04)])
    assert [teacher_temperature(epoch, 200) for epoch in range(200)] == pytest.approx(wanted.tolist())


@pytest.mark.parametrize("epochs, wanted", [(12, [0.07, 0.04, 0.04]), (7, [0.07, 0.04, 0.04]), (3, [0.04] * 3), (20, [0.07, 0.055, 0.04])])
def test_it_fits_any_number_of_epochs(epochs, wanted):
    assert [teacher_temperature(epoch, epochs) for epoch in range(3)] == pytest.approx(wanted)


def test_a_teacher_that_is_softer_in_the_end_stays_so():
    assert {teacher_temperature(epoch, 20, sharp=0.09) for epoch in range(20)} == {0.09}
