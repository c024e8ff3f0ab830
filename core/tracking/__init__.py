"""Tracking: the only part that imports MLflow."""

import os

# MLflow reads these while it is imported or used, so they must be set before any module of this package runs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
