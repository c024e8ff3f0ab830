"""Predict posts without tags: guid,tag for every guid in the input's order, by the classifier that did best on validation.

    mlflow run . -e predict_test_clip -P weights=runs:/<id> -P data_root=<folder> -P output=test_with_label.txt

Writes predictions/: test_with_label.txt, confidence.csv, predictions.json. Expect some 60 % positive, 30 % negative, 10 % neutral.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import PREDICT_TEST_CLIP

main = partial(launch, PREDICT_TEST_CLIP)

if __name__ == "__main__":
    sys.exit(main())
