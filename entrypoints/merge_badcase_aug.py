"""Join training posts and variants of bad cases into train_aug.csv; no validation or test post ever comes in.

    mlflow run . -e merge_badcase_aug -P data_dir=runs:/<id>/posts -P data_root=<folder> -P badcase_image_csv=runs:/<id>/badcase_aug

Writes train_aug/: train_aug.csv (with source_guid, origin, reason), images/, report.json. Refused, naming the posts, when a row is a
held-out post by guid, source, image or text; variants that come to be like one by chance are left out and counted.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import MERGE_BADCASE_AUG

main = partial(launch, MERGE_BADCASE_AUG)

if __name__ == "__main__":
    sys.exit(main())
