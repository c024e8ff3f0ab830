"""open_clip comes without transformers, which stays importable afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.entrypoints.place import ROOT

ASK = """
import json, sys
from core.models.open_clip_alone import open_clip
from core.models.clip import build_towers
build_towers("small_cnn", "clip:small-32x1", 16, 16)
alone = [name for name in ("transformers", "tokenizers") if name in sys.modules]
import transformers
print(json.dumps([open_clip.__name__, alone, transformers.__name__]))
"""


def test_towers_of_open_clip_do_without_transformers():
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["open_clip", [], "transformers"]
