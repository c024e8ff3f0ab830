"""What trainings do at their end whose model names the class of an image: long-tail and class sentences."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from core.serving.images import example
from core.stages import after, classification_report
from core.stages import held_out as held
from core.stages.checkpointed import CheckpointedTraining
from core.tracking import registry
from core.tracking.store import scratch

# What such a model takes and gives, as MLflow types.
COLUMNS = ({"image": "string"}, {"class": "string", "confidence": "double"})
METRIC = "balanced_accuracy"  # of promotion, on validation images; accuracy alone would reward forgetting the rare classes


class ClassifierTraining(CheckpointedTraining):
    """A training of a classifier of images.

    Attributes:
        m: materials, with the `data` and the images of each `part`.
        family: first word of its registered names after `taxon-`.
        server: the module of core/serving that answers by its model.
        data_options: the class of its options that say which images are used.
    """

    family: str
    server: ModuleType
    data_options: type
    m: Any

    def restore_best(self) -> None:
        """Put the model of the epoch that stands for the training back."""
        raise NotImplementedError

    def logits(self, part: str) -> np.ndarray:
        """Return the logits (N, C) of a part's images by the model as it is."""
        raise NotImplementedError

    def beside(self, logits: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the figures that stand beside the model's own logits (N, C) by part: of other lines on the same images."""
        return {}

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return what whoever promotes the model has to know of its figures, in one line; '' = nothing."""
        return ""

    def served(self) -> tuple[Any, Any]:
        """Return the model and the views that are served."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """Return what a served model says of itself, besides classes, data and epoch."""
        raise NotImplementedError

    @property
    def registers(self) -> bool:
        """Whether the model is to be registered."""
        return bool(self.config.register)

    def publish(self) -> dict[str, Any]:
        """Put the best epoch's model back, score it on validation and, once, on the test part, and store it; then draw, register, note."""
        summary = self.summarise()
        self.restore_best()
        summary["weights_digest"] = self.digest()
        logits = {part: self.logits(part) for part in held.PARTS if len(self.m.part(part))}
        reports = {part: classification_report.report(self.m.data, part, found) for part, found in logits.items()}
        metrics = {"best_epoch": float(self.facts["best"]["epoch"] or self.history[-1][0])}
        for part, found in reports.items():
            metrics |= {f"best/{part}/{name}": value for name, value in found.metrics.items()}
        metrics |= self.beside(logits)
        self.recorder.metrics(metrics, self.history[-1][0])
        summary["best_metrics"] = metrics
        tags = {"taxon.data": self.m.data.name, "taxon.select_by": self.config.select_by, "taxon.best_score": self.facts["best"]["score"]}
        tags |= self._warned(metrics)
        steps: dict[str, after.Step] = dict(classification_report.steps(self.m, logits, reports, self.work / "evaluation"))
        if self.registers:
            steps[after.REGISTRATION] = lambda so_far: {"model": self.register(so_far["best_metrics"], logits.get("val"))}
        return self.publish_stage(summary, tags, after.Steps(steps, self.note))

    def _warned(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return the tag of run and version that holds the warning; {} where there is none."""
        warning = self.warning(metrics)
        return {registry.WARNING_TAG: warning} if warning else {}

    def note(self, summary: dict[str, Any]) -> str:
        """Print the figures; return the description shown at the top of the run's page."""
        raise NotImplementedError

    def register(self, metrics: Mapping[str, float], logits: np.ndarray | None) -> str:
        """Register what was scored as `taxon-<family>-<data>`; return its URI.

        Args:
            metrics: of the training, kept with the version.
            logits: (N, C) of the validation images; None where there are none, and nothing is compared.
        """
        data, own = self.m.data, self.about()
        about = own | {
            "class_names": list(data.class_names),
            "data": data.name,
            "data_digest": data.digest,
            "epoch": self.facts["best"]["epoch"],
        }
        evaluation = None
        if logits is not None:
            answers = [data.class_names[best] for best in logits.argmax(axis=1)]
            evaluation = held.evaluation(self.family, METRIC, data, answers, self.config, self.data_options, self.lineage)
        folder = scratch("predictor")
        try:
            self.server.write(folder / "data", *self.served(), about, self.lineage)
            return registry.register(
                self.recorder,
                registry.model_name(self.family, data.name),
                folder / "data",
                self.server.__name__,
                COLUMNS,
                example(data.train.source),
                {f"registered/{name}": value for name, value in metrics.items()},
                {name: str(value) for name, value in about.items() if name != "class_names"} | self._warned(metrics),
                evaluation,
                held.identity(data),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
