"""The examples for many machines: their commands are ones that the entry point takes."""

from __future__ import annotations

import re
import shlex
import subprocess

import yaml

from core import config as configuration
from core.tracking import provenance
from tuning.config import TuneSuperclassConfig

DOCS = provenance.ROOT / "docs"


def parsed(words: list[str]) -> TuneSuperclassConfig:
    """Return the configuration of `mlflow run . -e tune_superclass -P ...`."""
    assert words[:5] == ["mlflow", "run", ".", "-e", "tune_superclass"]
    given = [words[i + 1] for i, word in enumerate(words) if word == "-P"]
    return configuration.parse(TuneSuperclassConfig, [f"--{one}" for one in given], "tune_superclass")


def test_the_array_of_a_slurm_cluster_runs_a_study():
    text = (DOCS / "study.sbatch").read_text()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    command = re.search(r"srun (mlflow run .*?[^\\])$", text, re.M | re.S).group(1).replace("\\\n", " ")
    config = parsed(shlex.split(command))
    assert (config.superclasses, config.n_trials, config.storage) == ("trees", 200, "$TAXON_STORAGE")
    assert {"--array=0-7", "--requeue"} <= set(re.findall(r"^#SBATCH (\S+)", text, re.M))


def test_the_array_refuses_to_start_without_its_addresses():
    done = subprocess.run(["bash", DOCS / "study.sbatch"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode != 0 and "MLFLOW_TRACKING_URI: address of the MLflow server" in done.stderr


def test_the_job_of_kubernetes_runs_a_study():
    job = yaml.safe_load((DOCS / "study_job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "entrypoints.tune_superclass"]
    config = configuration.parse(TuneSuperclassConfig, container["args"], "tune_superclass")
    assert (config.superclasses, config.n_trials) == ("trees", 200)
    assert config.storage.startswith("postgresql://") and ":" not in config.storage.removeprefix("postgresql://").split("@")[0]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] and job["spec"]["backoffLimit"] > job["spec"]["parallelism"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]
    }
