"""A registered model answers in a process of its own, with the code that was stored with it: `python -P ask_worker.py <folder>`.

Reads one JSON list of rows a line, writes one JSON list of answers a line. Nothing of this project is imported before the model
brings its own copy; nothing is unpickled.
"""

import json
import logging
import os
import sys


def main(folder: str) -> int:
    """Answer until the input ends; return the exit code. What cannot be done ends with `{"error": <line>}`."""
    out = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # what libraries print is no answer
    try:
        import mlflow.pyfunc
        import pandas

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        model = mlflow.pyfunc.load_model(folder, suppress_warnings=True)
        for line in sys.stdin:
            answers = model.predict(pandas.DataFrame(json.loads(line)))
            print(json.dumps(answers), file=out, flush=True)
    except Exception as error:  # whatever a model does wrong is said in one line
        print(json.dumps({"error": " ".join(str(error).split())[:300] or type(error).__name__}), file=out, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
