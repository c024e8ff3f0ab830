"""What `tune_optimize_clip` searches: learning rate, batch size, weight decay, dropout, head and loss of a classifier of posts.

With locked towers the learning rate is the head's, features are computed once a study, and a trial takes seconds. With
`encoder = tfidf` the reference line's n-grams and strengths are searched instead. Posts are read once a study, the test posts never.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core import config as configuration
from core.errors import UserError
from core.stages import keys
from core.stages.execute import Job
from core.stages.posts import checks, evaluate, materials, reference
from core.stages.posts.config import OptimizeClipConfig, PostsData
from core.stages.posts.optimize import PostsTraining, key_of
from core.stages.posts.stages import OPTIMIZE_CLIP
from core.tracking import stage
from core.tracking.recorder import Recorder
from tuning import light
from tuning.config import TuneOptimizeClipConfig
from tuning.runner import Plan, plan, run_studies
from tuning.space import Choice, Parameters, Range, Space

IDLE: dict[str, Any] = {"register": False, "save_freq": 0, "log_interval": 0}  # nobody looks at these of a trial
METRICS = ("macro_f1", "accuracy", "balanced_accuracy")


def _load(config: OptimizeClipConfig) -> dict[str, Any]:
    return {part: posts for part, posts in materials.load_rows(config).items() if part != "test"}


rows = light.Shared(_load, light.names_of(PostsData))


def ranges(config: OptimizeClipConfig) -> Parameters:
    """Return what is always searched."""
    if config.encoder == "tfidf":
        return _of_ngrams(config)
    rate = {"lr": Range(1e-6, 1e-4, log=True)} if trains_pretrained(config) else {"head_lr": Range(1e-4, 1e-2, log=True)}
    return {
        **rate,
        "batch_size": Choice((4, 8, 16, 32, 64)),
        "weight_decay": Range(1e-6, 1e-1, log=True),
        "dropout": Range(0.0, 0.5),
        "head_variant": Choice(("base", "ln", "mlp", *(("gated",) if config.modality == "both" else ()))),
        "loss": Choice(("ce", "focal", "cb", "combo")),
    }


def _of_ngrams(config: OptimizeClipConfig) -> Parameters:
    text: dict[str, Range | Choice] = {
        "regularisation": Range(0.03, 30.0, log=True),
        "word_ngrams": Range(1, 3, whole=True),
        "char_ngrams": Choice((0, 3, 4, 5, 6)),
        "min_count": Range(1, 5, whole=True),
    }
    image: Parameters = {"image_regularisation": Range(1e-5, 1e-1, log=True)}
    return {"text": text, "image": image, "both": {**text, **image, "image_share": Range(0.0, 1.0)}}[config.modality]


def also(config: OptimizeClipConfig) -> Parameters:
    """Return what the option `also` may name."""
    if config.encoder == "tfidf":
        return {}
    more: dict[str, Range | Choice] = {
        "gamma": Range(0.5, 4.0),
        "warmup_ratio": Range(0.0, 0.3),
        "use_cosine": Choice((False, True)),
        "logit_adjustment": Choice((False, True)),
    }
    if trains_pretrained(config):
        more |= {"head_lr": Range(1e-4, 1e-2, log=True), "layer_decay": Range(0.5, 1.0)}
    return more


def trains_pretrained(config: OptimizeClipConfig) -> bool:
    """Say whether a tower that starts from weights trains: only then `lr` acts."""
    sides = ("image", "text") if config.modality == "both" else (config.modality,)
    return any(materials.is_pretrained(config, side) and not materials.never_trains(config, side) for side in sides)


def prepare(config: OptimizeClipConfig) -> OptimizeClipConfig:
    """Check."""
    return checks.check_training(config)


def read(config: OptimizeClipConfig) -> dict[str, str]:
    """Return the digests of all that trials read."""
    found = {"data": materials.digest_of(rows.read(config))}
    return found | keys.digests(config, found)


def begin(config: OptimizeClipConfig) -> Job:
    """Prepare a trial."""
    config, posts = replace(config, **IDLE), rows.of(config)
    key = key_of(config, posts)

    def work(run: Recorder, _unfinished: Any) -> dict[str, Any]:
        run.dataset("posts", posts["train"].digest, config.train_csv or config.data_dir, "training")
        run.options(configuration.canonical(config))
        return _fit(config, posts, key, run) if config.encoder == "tfidf" else light.train(PostsTraining(config, posts, run, key))

    return Job("", work)


def _fit(config: OptimizeClipConfig, posts: dict[str, Any], key: str, run: Recorder) -> dict[str, Any]:
    """Fit the reference line; its one epoch has the validation metrics."""
    m = materials.gather(config, posts)
    run.started()
    fitted = reference.fit(config, m)
    found = evaluate.metrics_of(m.rows["val"], fitted.probabilities["val"], m.class_counts)
    metrics = {f"val/{name}": value for name, value in found.items()}
    run.metrics(metrics, 1)
    run.forward(metrics, 1)
    summary = {"epoch": 1, "metrics": metrics}
    light.publish(run, stage.work_folder(key), config, summary)
    return summary


SPACE = Space(
    name="optimize_clip",
    stage=replace(OPTIMIZE_CLIP, begin="tuning.optimize_clip:begin"),
    ranges=ranges,
    also=also,
    grid={"lr": (1e-5, 2e-5), "batch_size": (4, 8), "weight_decay": (1e-4, 5e-4), "dropout": (0.1, 0.2)},
    metrics={name: light.metric(name) for name in METRICS},
    prepare=prepare,
    inputs=read,
)


def run(config: TuneOptimizeClipConfig, run: Recorder) -> dict[str, Any]:
    """Run `tune_optimize_clip`."""
    return run_studies([study(config)], run)


def study(config: TuneOptimizeClipConfig) -> Plan:
    """Return the command's study, checked before it starts."""
    base = SPACE.base(config)
    if config.sampler == "grid" and (config.encoder == "tfidf" or not trains_pretrained(base)):
        raise UserError(
            "sampler = grid: the older grid searches lr of pretrained towers, of which none trains here; unlock one, or use tpe or random"
        )
    return plan(SPACE, config, config.encoder)
