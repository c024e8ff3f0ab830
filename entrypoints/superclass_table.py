r"""Compare ways to train on many superclasses and seeds: one table, one figure, paired differences, the ceiling beside them.

    mlflow run . -e superclass_table -P data_root=<folder of cifar-100-binary> -P weights=<mobilenetv2 .safetensors> \
        -P model_name=mobilenetv2_100 -P seeds=1

Writes table/figures.csv, table/table.md and plots/arms.png; a child run a superclass, seed and arm, which is reused when the same command
is given again or for more seeds. The ceiling sees all true labels and is tagged oracle. Figures to expect: docs/results.md.
"""

import sys
from functools import partial

from core.stages.discovery.stages import SUPERCLASS_TABLE
from core.stages.launch import launch

main = partial(launch, SUPERCLASS_TABLE)

if __name__ == "__main__":
    sys.exit(main())
