"""Turn the categories that a person has named, merged, split or dropped into labels, for the next pipeline.

    mlflow run . -e relabel -P clusters=<clusters.json> -P output=<new folder>

The run is one of pseudo_pipeline or of assign. Writes images.csv (path, label, group, split) into the folder and the artifacts
`relabelled/`, and says the command that goes on with it.
"""

import sys
from functools import partial

from core.stages.discovery.stages import RELABEL
from core.stages.launch import launch

main = partial(launch, RELABEL)

if __name__ == "__main__":
    sys.exit(main())
