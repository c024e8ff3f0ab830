"""Write who is labelled and who is not, for every superclass, as JSON.

    mlflow run . -e data_split_generator -P data_root=<folder>

Writes splits/superclass_XX_<name>.json and splits/gcd_superclass_splits_summary.json; trees: 1,440 labelled, 160 held out,
900 unlabelled images.
"""

import sys
from functools import partial

from core.stages.discovery.stages import DATA_SPLIT_GENERATOR
from core.stages.launch import launch

main = partial(launch, DATA_SPLIT_GENERATOR)

if __name__ == "__main__":
    sys.exit(main())
