"""Images listed in a table instead of folders."""

from __future__ import annotations

from core.data.images import DiscoveryData
from core.errors import UserError


def load(table: str, data_root: str, novel_classes: str = "", bad_images: str = "auto", follow_links: bool = False) -> DiscoveryData:
    """Return the images that a CSV file lists."""
    raise UserError(f"images = '{table}' cannot be read yet; arrange the images in data_root/labelled and data_root/unlabelled")
