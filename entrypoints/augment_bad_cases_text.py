"""Make text variants of bad cases: synonyms of emoji, repeated letters, dropped words.

    mlflow run . -e augment_bad_cases_text -P badcase_csv=runs:/<id>/bad_cases -P data_root=<folder> -P num_aug=1

Writes badcase_text_aug/badcase_text_aug.csv (guid,text,image_path,label,source_guid,origin); variants that say the same as the post
are left out and counted.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import AUGMENT_BAD_CASES_TEXT

main = partial(launch, AUGMENT_BAD_CASES_TEXT)

if __name__ == "__main__":
    sys.exit(main())
