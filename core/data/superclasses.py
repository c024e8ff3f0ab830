"""The 15 CIFAR-100 superclasses: which fine classes are known (fine id < 80) and which are novel (fine id >= 80).

Fine ids are CIFAR-100's alphabetical fine labels, 0..99. Four superclasses have no novel class.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import UserError, nearest


@dataclass(frozen=True)
class Superclass:
    """One row of the table.

    number: position in the table (0-based), used in file names; name; known, novel: ascending CIFAR-100 fine ids.
    """

    number: int
    name: str
    known: tuple[int, ...]
    novel: tuple[int, ...]

    @property
    def fine_ids(self) -> tuple[int, ...]:
        """All fine ids in ascending order: position i is class index i of the data set."""
        return tuple(sorted(self.known + self.novel))


_TABLE = {
    "trees": ((47, 52, 56, 59), (96,)),
    "flowers": ((54, 62, 70), (82, 92)),
    "fruits_vegetables": ((0, 51, 53, 57), (83,)),
    "mammals": ((3, 4, 15, 19, 21, 31, 34, 36, 38, 42, 43, 50, 55, 63, 64, 65, 66, 72, 74, 75), (80, 88, 97)),
    "marine_animals": ((1, 26, 27, 30, 32, 45, 67, 73), (91, 95)),
    "insects_arthropods": ((6, 7, 14, 18, 24, 77, 79), (99,)),
    "reptiles": ((29, 44, 78), (93,)),
    "humans": ((2, 11, 35, 46), (98,)),
    "furniture": ((5, 20, 25), (84, 94)),
    "containers": ((9, 10, 16, 28, 61), ()),
    "vehicles": ((8, 13, 48, 58, 69), (81, 85, 89, 90)),
    "electronic_devices": ((22, 39, 40, 41), (86, 87)),
    "buildings": ((12, 17, 37, 76), ()),
    "terrain": ((33, 49, 60, 68, 71), ()),
    "weather_phenomena": ((23,), ()),
}

SUPERCLASSES: tuple[Superclass, ...] = tuple(Superclass(i, name, *ids) for i, (name, ids) in enumerate(_TABLE.items()))

# Published results are on the whole of CIFAR-100: 80 known, 20 novel classes. Not a row of the table.
WHOLE = Superclass(len(SUPERCLASSES), "all", tuple(range(80)), tuple(range(80, 100)))


def find(name: str) -> Superclass:
    """Return the superclass called `name` ('all' = all 100 classes); UserError with the nearest name when there is none."""
    for superclass in (*SUPERCLASSES, WHOLE):
        if superclass.name == name:
            return superclass
    names = [superclass.name for superclass in (*SUPERCLASSES, WHOLE)]
    raise UserError(f"superclass_name: there is no superclass '{name}'{nearest(name, names)} (choose from: {', '.join(names)})")
