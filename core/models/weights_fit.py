"""Find a network's tensors among those of a file: under the prefix that wrappers leave, without the heads that lie beside it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

# Of two equal networks in one file, the one that its training would use later: a teacher or average before what it averages.
_PREFERRED = ("teacher", "ema", "target", "encoder_q", "online", "student")
# Parts that change what a network computes, and are no heads, wherever they lie.
_STRUCTURE = ("cls_token", "class_token", "dist_token", "reg_token", "register_tokens", "pos_embed", "positional_embedding")
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # torch puts these anywhere within a name
_CLOSING = ("norm", "fc_norm", "norm_pre", "norm_post", "ln_pre", "ln_post", "ln_final", "stem")


@dataclass(frozen=True)
class Fit:
    """What of a file belongs to a network."""

    given: dict[str, Tensor]
    """Its tensors, by the network's names; of a foreign network whatever lies under the prefix."""
    prefix: str
    """Taken off their names, such as `module.backbone.`; '' for none."""
    left_out: tuple[str, ...]
    """First parts of the names that lie beside the network or are a head of it, such as `head` or `student`."""
    mismatch: str
    """Where `given` first differs from the network; '' when it fits."""

    def say(self, source: str, usual: tuple[str, ...] = ()) -> None:
        """Say on stderr what of `source` was not read, other than what is `usual` beside such a network."""
        rest = [name for name in self.left_out if name not in usual]
        if rest:
            print(f"taxon: weights {source}: {', '.join(rest)} beside the network{self._named()} left out", file=sys.stderr)

    def reason(self) -> str:
        """Return the mismatch, and which prefix was taken off before it was found."""
        return f"{self.mismatch} (without the prefix '{self.prefix}' of its names)" if self.prefix else self.mismatch

    def _named(self) -> str:
        return f" (read from '{self.prefix}*')" if self.prefix else ""


def fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Fit:
    """Return the tensors of `state` that a network with the tensors `expected` takes.

    The prefix is the one under which most of the expected names are found, whatever it is called; heads are what lies under other
    names than the network's own parts, as `head.mlp.0.weight` beside `backbone.blocks.0.norm1.weight`.
    """
    state = {unwrapped(name): tensor for name, tensor in state.items()}
    prefix = _prefix(state, expected)
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    beside = [name for name in state if not name.startswith(prefix)]
    parts = {name.partition(".")[0] for name in expected}
    heads = [name for name in inside if name not in expected and _is_head(name, parts)]
    rest = {name: tensor for name, tensor in inside.items() if name not in set(heads)}
    mismatch = first_mismatch(expected, rest)
    left_out = dict.fromkeys(name.partition(".")[0] for name in [*beside, *heads])
    return Fit(inside if mismatch else rest, prefix, tuple(left_out), mismatch)


def _prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the prefix under which `state` has most of the expected names; that of all its names when it has none of them."""
    found = Counter[str]()
    for name in state:
        start = 0
        while start >= 0:
            if name[start:] in expected:
                found[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    if not found:
        return shared_prefix(state)
    best = max(found.values())
    return min((prefix for prefix, count in found.items() if count == best), key=lambda prefix: (_rank(prefix), len(prefix), prefix))


def _rank(prefix: str) -> int:
    return next((rank for rank, word in enumerate(_PREFERRED) if word in prefix), len(_PREFERRED) if prefix else -1)


def shared_prefix(names: Mapping[str, Tensor]) -> str:
    """Return the parts with which all names start, such as `module.model.`; '' for none."""
    split = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


def unwrapped(name: str) -> str:
    """Return a tensor's name without the parts that torch's own wrappers put before, and within, it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _is_head(name: str, parts: set[str]) -> bool:
    first = name.partition(".")[0]
    return first not in parts and first not in _STRUCTURE and first not in _CLOSING


def first_mismatch(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say where `given` first differs from `expected` in names or shapes, or return '' when it fits.

    A missing BatchNorm counter (`num_batches_tracked`, absent from old files) is no mismatch.
    """
    for name, tensor in expected.items():
        if name not in given:
            if name.endswith("num_batches_tracked"):
                continue
            return f"'{name}' {tuple(tensor.shape)} is missing"
        if given[name].shape != tensor.shape:
            return f"'{name}' has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
    unknown = next((name for name in given if name not in expected), None)
    return "" if unknown is None else f"'{unknown}' {tuple(given[unknown].shape)} is not part of the model"
