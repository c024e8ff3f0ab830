"""A request of 64 photographs at once against 64 requests of one, and what an image above the limit costs.

    python -m tests.benchmarks.bench_serving

Random weights: only time and memory are measured.
"""

from __future__ import annotations

import base64
import io
import resource
import statistics
import struct
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image
from torch import nn

from core.data.views import ViewSpec
from core.errors import UserError
from core.models import backbones
from core.models.classifiers import Classifier, linear_head
from core.serving.classifier import ClassifierPredictor, write

ROWS, ROUNDS, CLASSES = 64, 3, 20
BOMB = (16_000, 16_000)  # 256 megapixels of one colour, some 740 KiB as PNG


def predictor(folder: Path) -> ClassifierPredictor:
    """Return a served classifier with MobileNetV2 at 224 px."""
    backbone = backbones.build("mobilenetv2_100", 224, 0, pretrained=False, seed=1)
    model = Classifier(backbone.tail, backbone.feature_dim, nn.ModuleDict({"label": linear_head(backbone.feature_dim, CLASSES, 1)}))
    about = {"backbone": "mobilenetv2_100", "class_names": [f"class {c}" for c in range(CLASSES)]}
    write(folder, model.eval(), ViewSpec(image_size=224, resize=256), about)
    return ClassifierPredictor(folder)


def encoded(image: Image.Image, kind: str) -> str:
    """Return base64 of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return base64.b64encode(buffer.getvalue()).decode()


def bomb() -> bytes:
    """Return a PNG of one colour, written row by row: the whole image must not be in this process's memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width, height = BOMB
    packer, row = zlib.compressobj(9), b"\0" * (1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


def seconds(work: Any) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak() -> float:
    """Return this process's peak memory so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print both sides and their ratio, then the refusal's cost."""
    noise = np.random.default_rng(1).integers(0, 255, (ROWS, 375, 500, 3), np.uint8)
    table = pandas.DataFrame({"image": [encoded(Image.fromarray(one), "JPEG") for one in noise]})
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        served = predictor(Path(folder) / "model")
        single = [table.iloc[[row]] for row in range(ROWS)]
        served.predict(table)
        pairs = [(seconds(lambda: [served.predict(one) for one in single]), seconds(lambda: served.predict(table))) for _ in range(ROUNDS)]
        ratios = [one / batch for one, batch in pairs]
        batch = statistics.median(batch for _one, batch in pairs)
        print(f"{ROWS} photographs in one request: {batch:.2f} s; {statistics.median(ratios):.2f}x the rate of {ROWS} requests of one")
        content = bomb()
        image, before = base64.b64encode(content).decode(), peak()
        took = seconds(lambda: said.append(refusal(served, image)))
        print(f"a PNG of {BOMB[0]} x {BOMB[1]} pixels ({len(content) // 1024} KiB): refused in {1000 * took:.1f} ms ({said[0]})")
        print(f"peak memory: {before:.0f} MiB before, {peak():.0f} MiB after")


def refusal(served: ClassifierPredictor, image: str) -> str:
    """Return the line with which an image is refused."""
    try:
        served.predict(pandas.DataFrame({"image": [image]}))
    except UserError as error:
        return str(error)
    raise AssertionError("an image above the limit was answered")


if __name__ == "__main__":
    main()
