"""The options of `assign`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import SEED, Auto, machine, option, place


@dataclass(frozen=True)
class AssignConfig:
    """Sort new images into the categories of a registered model: assignments.csv, and report.html over a sample."""

    model: str = place(
        "", "registered model: models:/<name>@champion, models:/<name>/<version>, its name, or the run that registered it", "predictor"
    )
    data_root: str = place("", "folder of images, in any folders below it; with images, where the paths of the file start")
    images: str = place("", "CSV file with a column path instead of a folder")
    bad_images: Literal["skip", "refuse"] = option("skip", "unreadable images are left out and listed in skipped.csv, or end the run first")
    follow_links: bool = option(False, "symbolic links may lead out of data_root")
    shown: int = option(5000, "images on report.html at most; of more a sample is shown", at_least=1)
    seed: int = option(1, "seed of that sample and of its map", **SEED)
    batch_size: int | Auto = machine("auto", "images of a forward pass; auto = 32, on a GPU 256", above=0)
    num_workers: int = machine(2, "threads that read images ahead", at_least=0)
    gpu: str = machine("auto", "auto (CUDA, MPS, CPU in this order), cpu, mps, or a CUDA index")
    threads: int = machine(0, "CPU threads of the computation; 0 = all usable ones", at_least=0)
    output: str = machine("", "folder that also gets the files")
