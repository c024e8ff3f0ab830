"""Contrast between the images and the texts of a batch, for texts of their own and for texts that several images share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.losses._similarity import cosine


def clip_contrast(image_embeddings: Tensor, text_embeddings: Tensor, scale: Tensor | float) -> Tensor:
    """CLIP's loss (Radford et al. 2021, arXiv:2103.00020, figure 3): image i belongs to text i and to no other.

    L = s * cos(v_i, t_j),   loss = (CE(L, I) + CE(L^T, I)) / 2.

    Args:
        image_embeddings: (B, d); L2-normalised here.
        text_embeddings: (B, d); L2-normalised here.
        scale: s = 1/temperature.

    Returns:
        A scalar in float32 (float64 for float64 input).

    Raises:
        ValueError: as many images as texts are needed.
    """
    return multi_positive_contrast(
        image_embeddings, text_embeddings, torch.arange(image_embeddings.shape[0], device=image_embeddings.device), scale
    )


def multi_positive_contrast(image_embeddings: Tensor, text_embeddings: Tensor, labels: Tensor, scale: Tensor | float) -> Tensor:
    """Contrast in which all texts of an image's class are its positives (the targets of UniCL, Yang et al. 2022, arXiv:2204.03610).

    T_ij = 1[y_i = y_j] / n_i with n_i the number of rows of class y_i,   loss = (CE(L, T) + CE(L^T, T^T)) / 2.
    Its least value is the entropy of T, not 0. It differs from `clip_contrast` only where texts of one class differ (several
    templates, captions, text dropout): rows that share one and the same embedding have the same logits, so that the mean over
    the class's positives is what the instances' sum already is, and both losses agree in value and gradient.

    Args:
        image_embeddings: (B, d); L2-normalised here.
        text_embeddings: (B, d), the text of each image; L2-normalised here.
        labels: (B,) integers.
        scale: s = 1/temperature.

    Returns:
        A scalar in float32 (float64 for float64 input).

    Raises:
        ValueError: images, texts and labels differ in number.

    Example:
        >>> loss = multi_positive_contrast(images, class_texts[labels], labels, towers.scale())
    """
    n = image_embeddings.shape[0]
    if text_embeddings.shape[0] != n or labels.shape != (n,):
        raise ValueError(f"{n} images, {text_embeddings.shape[0]} texts and {labels.shape[0]} labels; each image needs one of each")
    logits = scale * cosine(image_embeddings, text_embeddings)
    same = (labels[:, None] == labels[None, :]).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)
    # Rows of one class have the same count, so that T is symmetric and T^T is T.
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
