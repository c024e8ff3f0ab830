"""What a process may write to is settled before anything heavy: nothing is lost to a home, a cache or a variable of somebody else."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core import places
from core.errors import UserError

ROOT = str(Path(__file__).resolve().parents[2])
NOWHERE = "/proc"  # not even root may make a folder there


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """Give the test an environment, a home and a temporary folder of its own; return the folder that holds both."""
    for name in ("TAXON_CACHE", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(places, "LONGEST_TMPDIR", 500)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def test_a_good_place_is_left_as_it_is_and_nothing_is_said(surroundings, capsys):
    before = dict(os.environ)
    places.settle()
    assert dict(os.environ) == before and capsys.readouterr().err == ""
    assert places.cache_home() == surroundings / "home" / ".cache" / "taxon"


@pytest.mark.parametrize("home", [NOWHERE, f"{NOWHERE}/none", "/dev/null"])
def test_a_home_that_cannot_be_written_is_replaced_for_all_that_writes(surroundings, monkeypatch, capsys, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(places, "COMPILED", Path(NOWHERE) / "__pycache__")
    places.settle()
    cache = surroundings / f"taxon-{os.geteuid()}" / "cache"
    assert os.environ["TAXON_CACHE"] == str(cache) and places.cache_home() == cache
    assert os.environ["HOME"] == home  # what lies there (a .pgpass) is still found
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME"):
        assert Path(os.environ[name]).parent == cache
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "TAXON_CACHE" in said
    places.settle()  # the same process started again, or a child
    assert capsys.readouterr().err == ""


def test_a_cache_that_was_asked_for_is_refused_and_not_replaced(surroundings, monkeypatch):
    (surroundings / "file").write_text("")
    monkeypatch.setenv("TAXON_CACHE", str(surroundings / "file" / "cache"))
    with pytest.raises(UserError, match=r"TAXON_CACHE = '.*' cannot be used .*Not a directory.*set it to a folder that can be written"):
        places.settle()


def test_a_part_of_the_cache_that_another_user_made_is_named(surroundings, monkeypatch):
    (surroundings / "cache" / "locks").mkdir(parents=True)
    monkeypatch.setenv("TAXON_CACHE", str(surroundings / "cache"))
    monkeypatch.setattr(places, "unwritable", lambda folder: "Permission denied" if folder.name == "locks" else "")
    with pytest.raises(UserError, match=r"cache/locks: Permission denied"):
        places.settle()


def test_a_relative_cache_is_the_same_for_children_in_other_folders(surroundings, monkeypatch):
    monkeypatch.chdir(surroundings)
    monkeypatch.setenv("TAXON_CACHE", "cache")
    places.settle()
    assert os.environ["TAXON_CACHE"] == str(surroundings / "cache")


def test_a_shared_store_of_weights_that_can_only_be_read_is_read(surroundings, monkeypatch):
    (surroundings / "home" / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setattr(places, "unwritable", lambda folder: "Read-only file system" if "home" in folder.parts else "")
    places.settle()
    assert "HF_HOME" not in os.environ and "TORCH_HOME" in os.environ


def test_a_user_whom_the_system_does_not_know_gets_a_home_and_a_name(surroundings, monkeypatch):
    def unknown(_number):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", *places.USER_NAMES):
        monkeypatch.delenv(name, raising=False)
    places.settle()
    assert os.environ["HOME"] == str(surroundings / f"taxon-{os.geteuid()}") and os.environ["USER"] == str(os.getuid())


@pytest.mark.parametrize("name", ["TAXON_CACHE", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "RANK", "TMPDIR"])
@pytest.mark.parametrize("value", ["", " "])
def test_set_but_empty_is_unset(surroundings, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    places.settle()
    assert name not in os.environ


def test_no_graphics_card_is_still_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    places.unset_empty()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_private_folder_of_another_user_is_not_used(surroundings, monkeypatch):
    (surroundings / "theirs").mkdir()
    (surroundings / f"taxon-{os.geteuid()}").symlink_to(surroundings / "theirs")
    with pytest.raises(UserError, match="is not this user's own folder"):
        places.private_folder()


def test_a_working_folder_that_is_gone_is_one_line(surroundings, monkeypatch):
    (surroundings / "gone").mkdir()
    monkeypatch.chdir(surroundings / "gone")
    (surroundings / "gone").rmdir()
    with pytest.raises(UserError, match="working folder does not exist"):
        places.settle()
    os.chdir(surroundings)


LISTEN = """
import os, tempfile
from core import places
places.settle()
from multiprocessing.connection import Listener
with Listener(family="AF_UNIX") as listener, tempfile.NamedTemporaryFile() as file:
    print(len(listener.address), os.path.realpath(file.name))
"""


@pytest.mark.parametrize("letters", [70, 200])
def test_a_socket_below_a_long_tmpdir_has_a_short_address(tmp_path, letters):
    folder = tmp_path / ("x" * letters) / "é"
    folder.mkdir(parents=True)
    env = os.environ | {"TMPDIR": str(folder), "TAXON_CACHE": str(tmp_path / "cache")}
    for _ in range(2):  # the link is made once and found again
        done = subprocess.run([sys.executable, "-c", LISTEN], cwd=ROOT, env=env, capture_output=True, text=True)
        length, file = done.stdout.split()
        assert int(length) <= 107 and Path(file).parent == folder.resolve(), done.stderr
    assert done.stderr == ""


def test_a_long_tmpdir_without_a_short_folder_is_one_line(surroundings, monkeypatch):
    monkeypatch.setattr(places, "LONGEST_TMPDIR", 3)
    monkeypatch.setattr(places, "SHORT_FOLDERS", (NOWHERE,))
    with pytest.raises(UserError, match=r"TMPDIR = '.*' is too long"):
        places.settle()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("~nosuchuser/x", "there is no such user; give the whole path"),
        ("a" * 300, "File name too long; give another path"),
        ("a\0b", "embedded null byte; give another path"),
        ("loop/x", "Too many levels of symbolic links; give another path"),
        ("bad\udcff/x", r"a name in .*/bad\\udcff/x is not valid UTF-8; rename that file or folder"),
    ],
)
def test_a_path_that_cannot_be_is_refused_by_the_name_of_its_option(tmp_path, monkeypatch, path, reason):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError, match=rf"^data_root = '.*' cannot be read: {reason}$") as error:
        places.expanded(path, "data_root")
    assert str(error.value).encode() and len(str(error.value)) < 320


def test_a_path_need_not_exist_to_be_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.expanded("~/x/y", "data_root") == tmp_path / "x" / "y" and places.expanded("", "data_root") == Path()


def test_a_folder_that_may_not_be_entered_is_refused(tmp_path, monkeypatch):
    def denied(_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(places.os, "stat", denied)
    with pytest.raises(UserError, match=r"^images = 'x.csv' cannot be read: Permission denied; give another path$"):
        places.expanded("x.csv", "images")
