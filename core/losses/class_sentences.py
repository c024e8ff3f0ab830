"""Classification of images against one sentence a class: the class term of the SuperCLIP loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.losses._similarity import cosine, full_precision, weighted_mean


def superclip_class_loss(
    image_embeddings: Tensor, class_embeddings: Tensor, labels: Tensor, scale: Tensor | float, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the cosines between images and class sentences, with class weights that act.

    l_i = -log softmax_c( s * cos(v_i, t_c) )[y_i],   L = sum_i w_{y_i} l_i / sum_i w_{y_i}.

    The weight multiplies a sample's loss. Put into the one-hot target instead and L1-normalised there, it divides itself out
    and the loss is that of no weights at all. Multiplying all weights by one number changes nothing.

    Args:
        image_embeddings: (B, d); L2-normalised here.
        class_embeddings: (C, d), one sentence a class; L2-normalised here.
        labels: (B,) in 0..C-1.
        scale: s = 1/temperature.
        class_weights: (C,) not negative; None weighs all alike.

    Returns:
        A scalar in float32 (float64 for float64 input); 0 with a graph when all weights of the batch are 0.

    Raises:
        ValueError: the number of labels or weights does not fit.

    Example:
        >>> loss = superclip_class_loss(towers.encode_image(images), towers.encode_text(sentences), labels, towers.scale(), weights)
    """
    if labels.shape != image_embeddings.shape[:1]:
        raise ValueError(f"{labels.shape[0]} labels for {image_embeddings.shape[0]} images")
    logits = scale * cosine(image_embeddings, class_embeddings)
    if class_weights is None:
        return F.cross_entropy(logits, labels)
    if class_weights.shape != class_embeddings.shape[:1]:
        raise ValueError(f"{class_weights.shape[0]} class weights for {class_embeddings.shape[0]} classes")
    losses = F.cross_entropy(logits, labels, reduction="none")
    return weighted_mean(losses, full_precision(class_weights)[labels])
