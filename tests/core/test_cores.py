"""The cores that may be used: affinity, and a container's quota in both versions of control groups."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import cores
from core.stages.clip import materials as clip
from core.stages.discovery import materials
from core.stages.longtail import materials as longtail
from core.stages.posts import materials as posts

ROOT = Path(__file__).resolve().parents[2]


def groups(tmp_path: Path, membership: str, **files: str) -> tuple[Path, Path]:
    """Write the membership file and control files, named with __ for / and _ for . before the last part."""
    (tmp_path / "membership").write_text(membership)
    control = tmp_path / "control"
    control.mkdir()
    for name, content in files.items():
        path = control / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "membership", control


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu_max": "9900000 100000\n"}, 8),
        ("0::/pod/box\n", {"pod__box__cpu_max": "max 100000\n", "pod__cpu_max": "300000 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu_max": "400000 100000\n"}, 4),
        ("4:cpu,cpuacct:/job\n", {"cpu,cpuacct__job__cpu_cfs_quota_us": "500000", "cpu,cpuacct__job__cpu_cfs_period_us": "100000"}, 5),
        ("4:cpu,cpuacct:/gone\n", {"cpu__cpu_cfs_quota_us": "250000", "cpu__cpu_cfs_period_us": "100000"}, 3),
        ("4:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, 8),
        ("4:cpuset:/\n", {"cpuset__cpu_max": "100000 100000"}, 8),
        ("4:memory:/\n1:name=systemd:/\n0::/\n", {"unified__cpu_max": "100000 100000"}, 1),
        ("", {}, 8),
    ],
)
def test_a_quota_bounds_the_cores_of_the_affinity(tmp_path, monkeypatch, membership, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert cores.usable(*groups(tmp_path, membership, **files)) == expected


def test_without_control_groups_and_affinity_the_machine_counts(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores.usable(tmp_path / "none", tmp_path / "none") == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_on_one_core_computes_on_one_thread():
    code = (
        "import os, types; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from core.cores import threads; print(threads(types.SimpleNamespace(threads=0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["1"], done.stderr


@pytest.mark.parametrize("module", [materials, clip, longtail, posts])
def test_every_family_computes_on_the_usable_cores_unless_told_otherwise(module, monkeypatch):
    monkeypatch.setattr(cores, "usable", lambda: 5)
    assert [module.threads(SimpleNamespace(threads=given)) for given in (0, 3)] == [5, 3]


def test_nobody_counts_the_machine_s_cores():
    files = [path for folder in ("core", "entrypoints", "tuning", "tests/benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in files if "cpu_count" in path.read_text()]
    assert found == ["core/cores.py"]
