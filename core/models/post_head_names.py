"""Names of the heads of post classifiers, known without any library of the computations."""

from __future__ import annotations

from core.errors import UserError, nearest

HEADS = ("base", "ln", "mlp", "gated")
BLEND = "blend"
"""No head: a classifier with the base head, and n-grams beside it, whose probabilities are pooled."""
MODALITIES = ("both", "image_only", "text_only")


def check(head: str, modalities: str, dropout: float) -> None:
    """Raise UserError for settings that no classifier can be built with."""
    for option, value, known in (("head_variant", head, HEADS), ("modalities", modalities, MODALITIES)):
        if value not in known:
            raise UserError(f"{option}={value} is unknown; give one of {', '.join(known)}{nearest(value, known)}")
    if head == "gated" and modalities != "both":
        raise UserError(
            f"head_variant=gated weighs text against image and needs both; modalities={modalities} has one: use base, ln or mlp"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout} must be at least 0 and below 1")
