"""Tracking: the only part that imports MLflow."""

import os

# MLflow reads this while it is imported, so it must be set before any module of this package runs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
