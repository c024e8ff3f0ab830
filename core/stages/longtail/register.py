"""What the models of long-tail trainings are compared on."""

from __future__ import annotations

from typing import Any

from core.stages import held_out as held
from core.stages.held_out import HeldOut
from core.stages.longtail import materials
from core.stages.longtail.config import LongtailImages


def held_out(options: dict[str, Any], part: str) -> HeldOut:
    """Return the validation or test images that these data options name."""
    unread = {"val_share": 0.0} if part == "test" else {"test_dir": "", "test_meta": ""}  # of test the other parts are left out together
    return held.of_part(materials.load_data(LongtailImages(**options | unread)), part)
