"""Sort new images into the categories of a registered model, however many there are.

    mlflow run . -e assign -P model=models:/taxon-discovery-digits@champion -P data_root=<folder> [-P output=<folder>]

Any folder of images, or images=<CSV file with a column path>. Writes assignments.csv (a row an image: category, known or novel,
confidence, core, border or outlier), report.html over a sample, clusters.csv, clusters.json, outliers.csv, contents.csv, skipped.csv.
Expect some 85 % of the model's bare forward rate on two cores, reading 500 px JPEG files; memory does not grow with the images.
"""

import sys
from functools import partial

from core.stages.discovery.stages import ASSIGN
from core.stages.launch import launch

main = partial(launch, ASSIGN)

if __name__ == "__main__":
    sys.exit(main())
