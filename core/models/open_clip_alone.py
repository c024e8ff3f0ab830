"""open_clip, imported without transformers: its CoCa towers would import that, a second and more, for what is not used here.

from core.models.open_clip_alone import open_clip
"""

from __future__ import annotations

import sys

_hidden = "transformers" not in sys.modules
if _hidden:
    sys.modules["transformers"] = None  # type: ignore[assignment]  # importing it fails, for which open_clip is prepared
try:
    import open_clip
finally:
    if _hidden:
        del sys.modules["transformers"]

__all__ = ["open_clip"]
