"""Make image variants of bad cases: crop of 0.85..1, flip, light colour jitter.

    mlflow run . -e augment_bad_cases -P badcase_csv=runs:/<id>/bad_cases -P data_root=<folder> -P num_aug=1

Writes badcase_aug/: badcase_augmented.csv (guid,text,image_path,label,source_guid,origin) and images/; num_aug rows a bad case.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import AUGMENT_BAD_CASES

main = partial(launch, AUGMENT_BAD_CASES)

if __name__ == "__main__":
    sys.exit(main())
