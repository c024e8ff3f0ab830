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


def lighten(finished: Finished) -> None:
    """Leave only the weights of a finished stage's checkpoints, in its store; stage keys and figures stay as they are."""
    from core import digest
    from core.tracking import stage
    from core.training import state as states

    index = states.read_index(finished.folder / "checkpoints")
    light: dict[str, bytes] = {}
    for name in index:
        state = states.load_checkpoint(finished.folder / "checkpoints" / name)
        if not state.content:
            light[name] = states.to_bytes(states.weights_only(state))
    if light:
        told = {name: entry | ({"instead": digest.entry_of(light[name])} if name in light else {}) for name, entry in index.items()}
        files = {states.INDEX: json.dumps(told, indent=1).encode()} | light
        stage.replace(finished, {f"checkpoints/{name}": data for name, data in files.items()})
