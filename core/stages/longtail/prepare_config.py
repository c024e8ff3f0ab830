"""The typed configuration of preparing a long-tailed data set."""

from __future__ import annotations

from dataclasses import dataclass

from core.config import machine, option, place


@dataclass(frozen=True)
class PrepareConfig:
    """Read class folders, metadata CSV files or AI Challenger annotations; write metadata, class weights and a report."""

    train_dir: str = place("", "training images: class folders, or the folder that metadata or annotations name files in")
    val_dir: str = place("", "the same for validation")
    test_dir: str = place("", "the same for the test")
    train_meta: str = place("", "CSV with image_path and label_61 (or label); paths are relative to train_dir, else to the CSV's folder")
    val_meta: str = place("", "the same for validation")
    test_meta: str = place("", "the same for the test")
    train_annotations: str = place("", "AI Challenger annotations: JSON with disease_class and image_id, or lines 'images\\1_0.jpg 1'")
    val_annotations: str = place("", "the same for validation")
    test_annotations: str = place("", "the same for the test")
    output_dir: str = machine("", "folder to write the files into as well; empty = artifacts of the run only")
    allow_duplicates: bool = option(True, "report images that two parts share; false = refuse them")
