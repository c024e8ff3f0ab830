"""What the older documents call options and metrics, and what takes their place here; docs/older_names.md lists the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from core.errors import nearest

# Options that are meant as they were, under another name.
RENAMED = {
    "gpu_id": "gpu",
    "image_encoder": "image_encoder_name",
    "text_encoder": "text_encoder_name",
    "cifar100_root": "data_root",
    "config_file": "config",
}

_ARTIFACTS = "what a run makes is in its artifacts (mlflow artifacts download --run-id <run> --dst-path <folder>): leave it out"
_BY_THE_CLASSIFIER = "the classifier in weights decides that: leave it out"
_SEARCHED = "tune_optimize_clip searches it"

# Options that are gone: (an option that the command must have, '' = none; what took its place), the first that fits.
REPLACED: dict[str, tuple[tuple[str, str], ...]] = {
    "project_root": (
        ("data_dir", "give data_dir (runs:/<run of prepare_posts>/posts) and data_root (the folder of the posts)"),
        ("data_root", "give data_root, the folder of the posts"),
        ("", "paths start from the working folder: leave it out"),
    ),
    "output_csv": (
        ("output_dir", "give output_dir, the folder that also gets the files; they are artifacts of the run in any case"),
        ("", _ARTIFACTS),
    ),
    "output_dir": (("output", "give output, the file that also gets the predictions"), ("", _ARTIFACTS)),
    "save_dir": (("", _ARTIFACTS),),
    "output_base_dir": (("", _ARTIFACTS),),
    "exp_root": (("", _ARTIFACTS),),
    "runs_root": (("", _ARTIFACTS),),
    "pseudo_output_dir": (("", _ARTIFACTS),),
    "debug_root": (("", f"heatmaps/ with results_grid.json are of the refresh's own run; {_ARTIFACTS}"),),
    "feature_cache_dir": (
        ("features_path", "give features_path = runs:/<run of cache_features>/features with skip_feature_extraction, or leave it out"),
        ("", "features are artifacts of the run that extracts them, found again by what they are made from: leave it out"),
    ),
    "cache_dir": (("", "the run's artifacts hold the features (features/): leave it out"),),
    "checkpoint_root": (("", "auto_find_best looks at the finished runs of the store: leave it out"),),
    "reuse_log_dir": (("", "a checkpoint brings the curves so far along: leave it out"),),
    "resume_run_dir": (("resume_run_id", "give resume_run_id, the id of the run that is to go on"), ("", "give the checkpoint's URI")),
    "overwrite": (("stage1_epochs", "every refresh extracts the features of the newest checkpoint: leave it out"),),
    "batch_sizes": (("n_trials", "sampler = grid tries 4 and 8, tpe draws from 4 to 64: leave it out"), ("", _SEARCHED)),
    "lrs": (("n_trials", "sampler = grid tries 1e-5 and 2e-5; else give bounds = lr=<low>:<high>"), ("", _SEARCHED)),
    "weight_decays": (("n_trials", "sampler = grid tries 1e-4 and 5e-4; else give bounds = weight_decay=<low>:<high>"), ("", _SEARCHED)),
    "dropouts": (("n_trials", "sampler = grid tries .1 and .2; else give bounds = dropout=<low>:<high>"), ("", _SEARCHED)),
    "model_name": (("weights", _BY_THE_CLASSIFIER),),
    "batch_size": (("weights", _BY_THE_CLASSIFIER),),
    "num_workers": (("weights", _BY_THE_CLASSIFIER),),
}


@dataclass(frozen=True)
class Score:
    """Where a metric of the older documents is found.

    Attributes:
        logged: its name in a run.
        choices: values of options that choose by it, whichever an option has.
    """

    logged: str
    choices: tuple[str, ...] = ()


_HELD_OUT = Score("val/accuracy_old", ("val",))
DISCOVERY = {
    **dict.fromkeys(("val_acc_all", "all_acc"), Score("unlabelled/v2_all, which takes the novel classes' truth", ("oracle",))),
    **dict.fromkeys(("val_acc_new", "new_acc"), Score("unlabelled/v2_new, which takes the novel classes' truth", ("oracle",))),
    **dict.fromkeys(("val_acc_old", "old_acc"), Score("unlabelled/v2_old, of held-out labelled images as val/accuracy_old", ("val",))),
    **dict.fromkeys(("val_acc", "best_val_acc", "acc"), _HELD_OUT),
}
CLASSIFYING = {
    **dict.fromkeys(("val_acc", "best_val_acc", "acc", "val_acc_all"), Score("val/accuracy", ("accuracy", "val_acc"))),
    **dict.fromkeys(("tail_mean_acc", "tail_acc", "tailacc"), Score("val/tail_accuracy", ("tail_accuracy",))),
    **dict.fromkeys(("macro-f1", "macrof1", "f1"), Score("val/macro_f1", ("macro_f1",))),
    "val_map": Score("val/mAP", ("mAP", "val_map")),
    "val_loss": Score("val/nll", ("val_loss",)),
}
ONLY_DISCOVERY = {"oracle", "silhouette"}  # choices that no other family has


def present_name(name: str, known: Collection[str]) -> str:
    """Return an option's name as it is now: of one in the older documents' spelling (`gpu-id`, `image_encoder`), else as it came."""
    plain = name.replace("-", "_")
    return next((found for found in (plain, RENAMED.get(plain, plain)) if found in known), name)


def replacement(name: str, known: Collection[str]) -> str:
    """Return what took the place of an option of the older documents that a command with the options `known` lacks; '' of any other."""
    return next((line for needed, line in REPLACED.get(name.replace("-", "_"), ()) if not needed or needed in known), "")


def unknown_options(names: Sequence[str], known: Collection[str]) -> str:
    """Return what to say of options that a command lacks: of older ones what took their place, of others the nearest name."""
    others = [name for name in names if not replacement(name, known)]
    if others:
        return f"no option '{others[0]}'{nearest(others[0], known)}"
    gone = [f"'{name.replace('-', '_')}' any more ({replacement(name, known)})" for name in dict.fromkeys(names)]
    return f"no option {'; nor '.join(gone)}"


def of_score(value: str, choices: Collection[str]) -> str:
    """Return what a metric of the older documents is called here, for an option that takes `choices`; '' where it is none of theirs."""
    score = (DISCOVERY if ONLY_DISCOVERY & set(choices) else CLASSIFYING).get(value.lower())
    if score is None:
        return ""
    choice = next((one for one in score.choices if one in choices), "")
    here = f"'{choice}' here, " if choice else ""
    return f"; the older '{value}' is {here}logged as {score.logged}"


def nearest_value(value: str, choices: Collection[str]) -> str:
    """Return a hint for a value that is none of `choices`: the older metric's present name, else the nearest choice."""
    return of_score(value, choices) or nearest(value, choices)
