"""The typed configuration of promotion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import SEED, option
from core.stages.catalog import Family


@dataclass(frozen=True)
class PromoteConfig:
    """Compare a registered candidate with the champion on the same held-out data, and make it the champion if it is better."""

    name: str = option("", "registered model, e.g. taxon-discovery-digits; empty = that of family and data")
    family: Literal["", Family] = option("", "family of the model, where name is empty")
    data: str = option("", "data set of the model, e.g. digits or cifar100/trees, where name is empty; posts have none")
    candidate: str = option(
        "",
        "version number, alias (challenger = the newest), models:/... or runs:/<id>; empty = of the finished versions that were evaluated "
        "on the champion's data, since it was promoted if there are any, the one with the best recorded metric",
    )
    metric: Literal["", "accuracy", "balanced_accuracy", "macro_f1"] = option(
        "",
        "what decides; empty = the family's declared one (discovery: accuracy, clusters without a name matched to the novel classes; "
        "longtail and clip: balanced_accuracy; posts: macro_f1)",
    )
    part: Literal["auto", "val", "test"] = option(
        "auto", "which held-out items decide; auto = the test part, which chose nothing before, or validation where there is none"
    )
    rule: Literal["interval", "point"] = option(
        "interval",
        "what has to be above min_gain: the lower end of the gain's interval, wide enough for all candidates that were looked at, or "
        "(point) the gain itself, which is above 0 every other time where nothing differs",
    )
    data_root: str = option("", "data_root of the held-out data now; empty = where the candidate's training found them")
    data_options: str = option("", "other data options of the candidate's training that changed since: val_dir=<path>,val_meta=<path>,...")
    min_gain: float = option(
        0.0,
        "the candidate becomes champion if it is better by more than this, 0..1",
        at_least=0,
        below=1,
        wrong=" is outside 0..1; give the share by which a candidate has to be better",
    )
    n_bootstrap: int = option(
        2000, "resamples of the held-out items for the confidence intervals", at_least=1, wrong="; use 1 resample or more"
    )
    seed: int = option(0, "seed of the resamples", **SEED)
    dry_run: bool = option(False, "show what would happen; move no alias, tag no version")
