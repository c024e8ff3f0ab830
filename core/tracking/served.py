"""What MLflow loads of a registered model: files are checked first, then the family's predictor answers. Nothing is unpickled.

The data folder holds the predictor's own files and FACTS: which module reads them, and their sha256. A request that cannot be
answered becomes a 400 with one line; a damaged folder ends the server with one line.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from core import digest
from core.errors import UserError

FACTS = "served.json"
LOADER = __name__


def seal(folder: Path, module: str) -> None:
    """Write FACTS: the module whose `_load_pyfunc(path)` reads `folder`, and the sha256 of every file there."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / FACTS]
    files = {path.relative_to(folder).as_posix(): digest.of_file(path) for path in paths}
    (folder / FACTS).write_text(json.dumps({"module": module, "files": files}, indent=1, sort_keys=True) + "\n")


def check(folder: Path) -> str:
    """Return the module that reads `folder`; raise UserError naming the first file that is missing or not what was registered."""
    try:
        facts = json.loads((folder / FACTS).read_text())
        module, files = str(facts["module"]), dict(facts["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"this model is damaged: {FACTS} is missing or unreadable; {REMEDY}") from None
    for name, wanted in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            raise UserError(f"this model is damaged: {name} is missing; {REMEDY}")
        if digest.of_file(path) != wanted:
            raise UserError(f"this model is damaged: {name} is not the file that was registered; {REMEDY}")
    return module


REMEDY = "restore it from a backup, or register the model again"


class BadRequest(MlflowException):
    """One line for the sender of a request: MLflow's server would put the whole input, kilobytes of base64, before it."""

    def __init__(self, line: str):
        self.line = line
        super().__init__(line, error_code=BAD_REQUEST)

    @property
    def message(self) -> str:
        """The one line, whatever is set."""
        return self.line

    @message.setter
    def message(self, _value: str) -> None:
        pass


class Served:
    """A registered model: checks its files, then answers through its family's predictor."""

    def __init__(self, folder: Path):
        self.predictor = importlib.import_module(check(folder))._load_pyfunc(str(folder))

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return one answer a row; raise BadRequest for rows that cannot be answered."""
        try:
            answers: list[dict[str, Any]] = self.predictor.predict(table, params)
        except UserError as error:
            raise BadRequest(str(error)) from None
        return answers


def _load_pyfunc(path: str) -> Served:
    try:
        return Served(Path(path))
    except UserError:
        sys.excepthook = _one_line  # where nobody catches it, the server ends with the line and no traceback
        raise


def _one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if isinstance(error, UserError):
        print(f"taxon: error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
