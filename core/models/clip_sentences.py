"""CLIP towers that classify images by the sentences of their classes: the module that trains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.clip import ClipTowers
from core.models.word_head import WordHead


class SentenceClip(nn.Module):
    """Towers, the class sentences, and the word head of word supervision where there is one.

    Args:
        towers: image and text tower; locks and frozen stages are set before.
        token_ids: (S, L) tokens of all sentences.
        class_of: (S,) class of each sentence, every class at least once.
        words: word head, or None.
        text_features: (S, text width) of a locked text tower's body, computed once; None computes them in every pass.

    Example:
        >>> model = SentenceClip(towers, tokens.ids, class_of)
        >>> logits = model.logits(towers.encode_image(images), model.class_embeddings())
    """

    token_ids: Tensor
    class_of: Tensor
    fixed_text: Tensor | None

    def __init__(
        self, towers: ClipTowers, token_ids: Tensor, class_of: Tensor, words: WordHead | None = None, text_features: Tensor | None = None
    ) -> None:
        super().__init__()
        self.towers, self.words = towers, words
        self.register_buffer("token_ids", token_ids, persistent=False)
        self.register_buffer("class_of", class_of, persistent=False)
        self.register_buffer("fixed_text", text_features, persistent=False)
        self.n_classes = int(class_of.max()) + 1

    @property
    def scale(self) -> Tensor:
        """1/temperature."""
        return self.towers.scale()

    def forward(self, x: Tensor, sentences: Tensor) -> dict[str, Tensor]:
        """Map what `frozen` gave of B images, and the numbers (T,) of sentences, to embeddings, scale and word logits."""
        features, tokens = self.towers.visual.trained(x, with_tokens=self.words is not None)
        found = {"image": self.towers.visual.projection(features), "text": self.encode_sentences(sentences), "scale": self.scale}
        return found if self.words is None else found | {"words": self.words(tokens)}

    def encode_sentences(self, sentences: Tensor) -> Tensor:
        """Return the embeddings (T, d) of sentences by number."""
        if self.fixed_text is None:
            return self.towers.encode_text(self.token_ids[sentences])
        return self.towers.text.projection(self.fixed_text[sentences])

    def embed(self, x: Tensor) -> Tensor:
        """Return the image embeddings (B, d) of what `frozen` gave."""
        return self.towers.visual.projection(self.towers.visual.trained(x)[0])

    def class_embeddings(self) -> Tensor:
        """Return the embeddings (C, d) of the classes, from all their sentences."""
        everything = torch.arange(len(self.class_of), device=self.class_of.device)
        return class_means(self.encode_sentences(everything), self.class_of, self.n_classes)

    def logits(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return scale * cosine (B, C) in float32 of image embeddings and class embeddings."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.scale * F.normalize(embeddings.float(), dim=1) @ F.normalize(classes.float(), dim=1).T

    def trained_state(self) -> dict[str, Tensor]:
        """Return references to all parameters and buffers that training may change, by name."""
        frozen = [*self.towers.visual.frozen_modules(), *([self.towers.text.body] if self.towers.text.locked else [])]
        kept = {id(tensor) for module in frozen for tensor in (*module.parameters(), *module.buffers())}
        return {name: tensor.detach() for name, tensor in self.state_dict(keep_vars=True).items() if id(tensor) not in kept}


def class_means(embeddings: Tensor, class_of: Tensor, n_classes: int) -> Tensor:
    """Return the mean (C, d) of each class's L2-normalised sentence embeddings (S, d): CLIP's ensemble of prompts.

    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4 (an ensemble in the embedding space).
    """
    normal = F.normalize(embeddings.float(), dim=1)
    sums = torch.zeros(n_classes, normal.shape[1], dtype=normal.dtype, device=normal.device).index_add(0, class_of, normal)
    return sums / torch.bincount(class_of, minlength=n_classes)[:, None]
