"""Split labelled posts (image + text) into train, validation and test, without the same image or text on two sides.

    mlflow run . -e prepare_posts -P data_root=<folder with train.txt and data/>

Writes posts/train.csv, val.csv, test.csv, predict.csv (guid,text,image_path,label) and posts/report.json; 3,600 labelled posts give
about 2,880 / 360 / 360.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import PREPARE_POSTS

main = partial(launch, PREPARE_POSTS)

if __name__ == "__main__":
    sys.exit(main())
