"""What stays of a training's checkpoints when it has ended: what later stages, whoever goes on with it, and the registry need.

last                          whole: more epochs, and the next stage, go on from it
best, where it is another     its weights: evaluating, registering and starting points need no more
stages between others         their weights, once the pipeline has ended: its warm-up and its end stay whole
every so many, as asked for   whole
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from core.tracking.stage import Finished

Kept = Literal["needed", "all"]
KEPT = "checkpoints of what has ended: needed = the last one whole, of others only the weights; all = whole"


def asked_for(epoch: int, every: int) -> bool:
    """Say whether an epoch's checkpoint stays, whole, because every so-many-th was asked for (0 = none)."""
    return bool(every and epoch % every == 0)


def lighten(finished: Finished, every: int) -> None:
    """Leave only the weights of a finished stage's checkpoints, in its store, but for every so-many-th; stage keys stay as they are."""
    from core import digest
    from core.tracking import stage
    from core.training import state as states

    folder = finished.folder / "checkpoints"
    light = {
        states.checkpoint_name(state.epoch): states.to_bytes(state)
        for state in states.lightened(folder, lambda epoch: asked_for(epoch, every))
    }
    if light:
        index = states.read_index(folder)
        index |= {name: index[name] | {"instead": digest.entry_of(data)} for name, data in light.items()}
        files = {states.INDEX: json.dumps(index, indent=1).encode()} | light
        stage.replace(finished, {f"checkpoints/{name}": data for name, data in files.items()})
