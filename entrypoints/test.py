"""Run the project's own tests.

    mlflow run . -e test [-P select="-m 'not slow'"]

Writes junit.xml and the counts; the run fails when a test does.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.stages import TEST

main = partial(launch, TEST)

if __name__ == "__main__":
    sys.exit(main())
