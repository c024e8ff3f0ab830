"""What weights have learnt from: content digests in the header of every weights file that the project writes.

A copy of the file keeps them, whatever it is called and wherever it lies. A file without them (published weights) says nothing of
what it was trained on and is taken as it is. 8 bytes tell millions of items apart and are small beside any weights.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError

HEADER = "taxon.lineage"
HEX = 16  # hexadecimal digits of a digest that are kept: 64 bits
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
# The keys of one item: of an image one, of a post that of its image and that of its text. Items that share one are the same item.
Item = tuple[str, ...]


def short(content: str) -> str:
    """Return the part of a content digest (hex) that is kept."""
    return content[:HEX]


def flat(items: Iterable[Item]) -> frozenset[str]:
    """Return the keys of all items, as they are kept."""
    return frozenset(short(key) for item in items for key in item)


def matching(items: Iterable[Item], *known: frozenset[str]) -> list[int]:
    """Return the places of the items of which a key is in one of the sets."""
    return [place for place, item in enumerate(items) if any(short(key) in keys for key in item for keys in known)]


@dataclass(frozen=True)
class Lineage:
    """Keys of all items that had a part in some weights, and in the weights that these started from.

    Attributes:
        trained: with their labels.
        seen: without labels (unlabelled images of discovery).
        chosen: held out, but they chose (or could choose) epoch, tau or strength.
        shared: held out by a training that held the same content among its training items too, and said so.
    """

    trained: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()
    chosen: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    def __or__(self, other: Lineage) -> Lineage:
        return Lineage(**{f.name: getattr(self, f.name) | getattr(other, f.name) for f in dataclasses.fields(self)})

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in dataclasses.fields(self))

    @property
    def learnt(self) -> frozenset[str]:
        """Everything that weights were fitted to, with or without labels."""
        return self.trained | self.seen

    def metadata(self) -> dict[str, str]:
        """Return what goes into the header of a safetensors file; {} where nothing is known."""
        packed = {f.name: _packed(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {HEADER: json.dumps({name: keys for name, keys in packed.items() if keys})} if self else {}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str] | None, source: str) -> Lineage:
        """Return what `metadata` wrote; nothing where the header has no such entry, UserError where it is damaged."""
        said = (metadata or {}).get(HEADER)
        if said is None:
            return cls()
        try:
            return cls(**{str(name): _unpacked(keys) for name, keys in json.loads(said).items()})
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"'{source}': its record of what it was trained on is damaged; copy the file again") from None


NOTHING = Lineage()


def read(path: str | Path) -> Lineage:
    """Return what the header of a weights file says; nothing for a file that has no such header (its loader says what is wrong)."""
    return Lineage.of_metadata(_metadata(Path(path)), str(path))


def _metadata(path: Path) -> Any:
    """Return the metadata of a safetensors file, read without its tensors; None for any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(length) if length <= min(LONGEST_HEADER, path.stat().st_size) else b""
        return json.loads(head).get("__metadata__")
    except (OSError, ValueError, AttributeError):
        return None


def _packed(keys: frozenset[str]) -> str:
    return base64.b64encode(b"".join(bytes.fromhex(key) for key in sorted(keys))).decode()


def _unpacked(packed: str) -> frozenset[str]:
    data, width = base64.b64decode(packed, validate=True), HEX // 2
    if len(data) % width:
        raise ValueError("cut short")
    return frozenset(data[at : at + width].hex() for at in range(0, len(data), width))


def items_of(contents: Sequence[str]) -> tuple[Item, ...]:
    """Return images, one content digest each, as items."""
    return tuple((content,) for content in contents)
