"""List training posts that classifiers trained on other folds get wrong or are unsure of.

    mlflow run . -e mine_bad_cases -P data_dir=runs:/<id>/posts -P data_root=<folder> [options of optimize_clip]

With -P model=runs:/<id> a trained classifier that has seen none of the posts predicts them, and nothing is trained.
Writes bad_cases/: bad_cases.csv, oof_predictions.csv, report.json, bad_cases.png (thumbnails), oof_reliability.png. Validation and
test posts are refused. Expect about two fifths of the training posts to be wrong (1,154 of 2,880 seen).
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import MINE_BAD_CASES

main = partial(launch, MINE_BAD_CASES)

if __name__ == "__main__":
    sys.exit(main())
