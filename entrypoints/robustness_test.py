"""Score a trained classifier of posts under image and text corruptions in five severities, on the test part.

    mlflow run . -e robustness_test -P data_dir=runs:/<id>/posts -P data_root=<folder> -P weights=runs:/<id>

Writes robustness/: robustness.json and .csv with accuracy and macro-F1 of each cell, robustness.png; nothing is selected by them.
Expect noise and blur at severity 5 to cost several hundredths of accuracy, changed case next to nothing.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import ROBUSTNESS_TEST

main = partial(launch, ROBUSTNESS_TEST)

if __name__ == "__main__":
    sys.exit(main())
