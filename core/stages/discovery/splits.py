"""The split stage: who is labelled, who is not, for every superclass, as JSON that others can read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

from core.config import canonical
from core.data.splits import split_report
from core.data.superclasses import SUPERCLASSES, find
from core.progress import bar
from core.stages.discovery import checks
from core.stages.discovery.config import SplitConfig
from core.stages.discovery.materials import load_data
from core.tracking.recorder import Recorder
from core.tracking.store import scratch

ENTRY_POINT = "data_split_generator"


def run(config: SplitConfig, run: Recorder) -> dict[str, Any]:
    """Write `superclass_XX_<name>.json` for each superclass (or the data set's one split) and the summary of all."""
    config = checks.split_options(config)
    folder = scratch("splits")
    try:
        reports = {}
        for index, name, one in bar(list(_parts(config)), "splits"):
            reports[name] = _report(one, name, run)
            path = folder / f"superclass_{index:02d}_{name}.json"
            path.write_text(json.dumps(reports[name], indent=1) + "\n")
        summary = {name: {"file": f"superclass_{i:02d}_{name}.json", **reports[name]["counts"]} for i, name, _one in _parts(config)}
        (folder / "gcd_superclass_splits_summary.json").write_text(
            json.dumps({"parameters": canonical(config), "superclasses": summary}, indent=1, sort_keys=True) + "\n"
        )
        run.folder(folder, "splits")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, report in summary.items():
        print(f"{name:20s} labelled {report['labelled']:6d}  validation {report['validation']:5d}  unlabelled {report['unlabelled']:6d}")
    return summary


def _parts(config: SplitConfig) -> Any:
    """Yield (index, name, configuration) of each split asked for."""
    if config.dataset != "cifar100" or config.superclass_name not in ("", "all"):
        name = config.superclass_name or config.dataset
        yield find(name).number if config.dataset == "cifar100" else 0, name, config
        return
    for superclass in SUPERCLASSES:
        yield superclass.number, superclass.name, dataclasses.replace(config, superclass_name=superclass.name)


def _report(config: SplitConfig, name: str, run: Recorder) -> dict[str, Any]:
    data, split = load_data(config)
    run.dataset(data.name, data.digest, config.data_root, name)
    return split_report(data, split, find(name) if config.dataset == "cifar100" else None) | {"name": name}
