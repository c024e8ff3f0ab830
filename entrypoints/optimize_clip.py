"""Train a classifier of posts (image + text) over CLIP towers, or over n-grams as the reference line; resumable at any epoch.

    mlflow run . -e optimize_clip -P data_dir=runs:/<id>/posts -P data_root=<folder> -P image_encoder_name=mobilenetv2_100
        -P image_weights=<file> -P lock_image=true -P text_encoder_name=clip:small-128x2 -P image_size=128 -P batch_size=64

Writes checkpoints/, predictor/ (safetensors, what the other tools open), evaluation/{val,test}/, curves and the registered model
`taxon-posts`. With -P encoder=tfidf expect about .68 accuracy and .59 macro-F1 on the posts of docs/posts.md. A pretrained
text tower is -P text_encoder_name=hf:<folder or owner/name>, a blend of towers and n-grams -P head_variant=blend.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.posts.stages import OPTIMIZE_CLIP

main = partial(launch, OPTIMIZE_CLIP)

if __name__ == "__main__":
    sys.exit(main())
