"""Which classes are novel, as a user writes it: a comma separated list of class names."""

from __future__ import annotations

from core.data.class_names import listed
from core.errors import UserError


def parse_known_classes(novel_classes: str, class_names: tuple[str, ...]) -> frozenset[int]:
    """Return the indices of the classes that `novel_classes` ('rust, miner'; '' = none) leaves known.

    Raises UserError for a name that is no class (with the nearest one) and when no class is left known.
    """
    novel = listed(novel_classes, class_names, "novel_classes")
    known = frozenset(i for i, name in enumerate(class_names) if name not in novel)
    if not known:
        raise UserError(f"novel_classes names all {len(class_names)} classes: leave at least one out, labels come from known classes")
    return known
