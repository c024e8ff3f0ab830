"""A run as it lies in the store, whichever process made it or holds it: read, found by its tags, added to, ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Run as Entity

from core.tracking.outbox import BATCH, send
from core.tracking.patience import Client, StoreError
from core.tracking.refusal import REASON_TAG
from core.tracking.run import NOTE_TAG, PARENT_TAG, run_tags


class StoredRun:
    """A run of this store by its id; nothing here takes it over, so its own process may go on with it.

    Every call waits for a store that is away, and raises StoreError where it refuses or stays away. Gone: the run was deleted.
    """

    def __init__(self, run_id: str):
        self.client, self.run_id = Client(), run_id

    @classmethod
    def finished_with(cls, tags: Mapping[str, str]) -> StoredRun | None:
        """Return the newest FINISHED run that has all of these tags, of any experiment; None where there is none."""
        client = Client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = [*(f"tags.`{name}` = '{value}'" for name, value in tags.items()), "attributes.status = 'FINISHED'"]
        found = client.search_runs(experiments, " and ".join(wanted), max_results=1)
        return cls(found[0].info.run_id) if found else None

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED; '' when this store does not have the run, or only deleted."""
        try:
            info = self._entity().info
        except StoreError as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        return str(info.status) if info.lifecycle_stage == "active" else ""

    def tag(self, name: str) -> str:
        """Return a tag's text; '' where the run has none."""
        return str(self._entity().data.tags.get(name, ""))

    def running_below(self, tag: str) -> list[str]:
        """Return the ids of its child runs with this tag that are RUNNING."""
        below = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING'"
        found = self.client.search_runs([self._entity().info.experiment_id], below, max_results=1000)
        return [child.info.run_id for child in found if tag in child.data.tags]

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, all in one request."""
        self.client.log_batch(self.run_id, tags=run_tags(values))

    def note(self, markdown: str) -> None:
        """Set the description shown at the top of the run's page."""
        self.tags({NOTE_TAG: markdown})

    def folder(self, path: Path) -> None:
        """Store a finished folder's files as artifacts."""
        self.client.log_artifacts(self.run_id, str(path))

    def missing_metrics(self, values: Mapping[tuple[str, int], float]) -> None:
        """Log values by (metric, step); those that the run has are not sent again."""
        now = int(time.time() * 1000)
        have = {(key, metric.step) for key in {key for key, _ in values} for metric in self.client.get_metric_history(self.run_id, key)}
        rows = [(key, value, step, now) for (key, step), value in values.items() if (key, step) not in have]
        for start in range(0, len(rows), BATCH):
            send(self.client, self.run_id, rows[start : start + BATCH])

    def end(self) -> None:
        """End the run as FINISHED, whatever its own process came to; a reason that says otherwise goes."""
        if self._entity().info.status != "FINISHED":
            self.client.set_terminated(self.run_id, "FINISHED")
            if self.tag(REASON_TAG):
                self.client.delete_tag(self.run_id, REASON_TAG)

    def _entity(self) -> Entity:
        return self.client.get_run(self.run_id)
