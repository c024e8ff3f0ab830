"""Make a registered candidate the champion if it is surely better than the champion on the same held-out data.

    mlflow run . -e promote -P name=taxon-discovery-digits [-P candidate=challenger] [-P dry_run=true]

Prints both scores and the gain with their intervals, and how many candidates were looked at; moves the alias `champion`; writes
promotion.json and, in tags of version and run, why. Serve what it chose: `mlflow models serve -m models:/taxon-discovery-digits@champion
--env-manager local`.
"""

import sys
from functools import partial

from core.stages.launch import launch
from core.stages.stages import PROMOTE

main = partial(launch, PROMOTE)

if __name__ == "__main__":
    sys.exit(main())
