"""The model that is trained: a backbone's tail and a projection head, with the frozen trunk beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor, nn

from core.errors import UserError
from core.models.backbones import Backbone
from core.models.cosine_classifier import CosineClassifier
from core.models.weights_fit import first_mismatch

PROTOTYPES = "classifier.prototypes"  # in a model's trainable state, where it has a classifier


class DiscoveryModel(nn.Module):
    """Trunk -> features -> projections.

    Only the tail and the head are registered, so that optimisers, DistributedDataParallel and checkpoints see exactly what
    trains. The trunk follows `.to()` but is no submodule; `forward` starts from its output, which may come from a cache.

    Args:
        backbone: what `core.models.backbones.build` returns.
        head: maps features (B, feature_dim) to projections (B, out_dim).
        classifier: of known and novel classes, trained beside the head; None = there is none.

    Example:
        >>> model = DiscoveryModel(backbone, ProjectionHead(backbone.feature_dim))
        >>> features, projections = model(model.trunk(images))
    """

    trunk: nn.Module
    """Frozen: images (B, 3, H, W) to the tail's input, without gradients and in evaluation mode."""

    def __init__(self, backbone: Backbone, head: nn.Module, classifier: CosineClassifier | None = None) -> None:
        super().__init__()
        # Past nn.Module's own __setattr__, which would register it.
        object.__setattr__(self, "trunk", backbone.trunk)
        self.tail: nn.Module = backbone.tail
        self.head = head
        self.classifier = classifier  # last: an optimiser's state of the others does not depend on it
        self.backbone_name = backbone.name
        self.feature_dim = backbone.feature_dim
        self.trunk_digest = backbone.trunk_digest

    def features(self, trunk_output: Tensor) -> Tensor:
        """Return the pooled features (B, feature_dim), not normalised, of the trunk's output."""
        return self.tail(trunk_output)

    def forward(self, trunk_output: Tensor) -> tuple[Tensor, ...]:
        """Return features (B, feature_dim) and projections (B, out_dim), neither normalised, of the trunk's output.

        With a classifier its cosines (B, K) follow.
        """
        features = self.features(trunk_output)
        found = features, self.head(features)
        return found if self.classifier is None else (*found, self.classifier(features))

    @property
    def prototypes(self) -> np.ndarray | None:
        """The classifier's prototypes (K, feature_dim) as they are; None without a classifier."""
        return None if self.classifier is None else self.classifier.prototypes.detach().float().cpu().numpy()

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of tail and head (not copied): what a checkpoint stores beside `trunk_digest`."""
        return dict(self.state_dict())

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `trainable_state` gave into this model.

        Raises:
            UserError: a name or a shape differs; the first one is named and nothing was copied.
        """
        mismatch = first_mismatch(self.state_dict(), state)
        if mismatch:
            raise UserError(
                f"the checkpoint does not fit {self.backbone_name}: {mismatch}; "
                "use the model_name, grad_from_block and head sizes that it was trained with"
            )
        self.load_state_dict(dict(state), strict=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiscoveryModel:
        super()._apply(fn, recurse)
        self.trunk._apply(fn, recurse)
        return self
