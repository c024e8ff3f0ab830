import contextlib
import functools
import hashlib
import http.server
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from core.data import cifar100
from core.data.cifar100 import FOLDER, load_superclass
from core.errors import UserError
from tests.core.data import fake_cifar

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def load(root, name="trees", expected=(200, 100), **kwargs):
    return load_superclass(root, name, expected=expected, **kwargs)


@contextlib.contextmanager
def serving(folder: Path):
    """Serve `folder` on a local port and give its address."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_superclass_has_its_records_with_their_original_numbers(tmp_path):
    folder = fake_cifar.write_folder(tmp_path / FOLDER)
    data = load(tmp_path)
    assert data.name == "cifar100/trees"
    assert data.class_names == ("fine_47", "fine_52", "fine_56", "fine_59", "fine_96")
    assert data.known_classes == {0, 1, 2, 3} and data.novel_classes == {4}
    assert (len(data.train), len(data.test)) == (10, 5)
    raw = np.frombuffer((folder / "train.bin").read_bytes(), np.uint8).reshape(-1, 3074)
    for i, image_id in enumerate(data.train.ids):
        record = raw[int(image_id.removeprefix("train/"))]
        assert (47, 52, 56, 59, 96)[data.train.labels[i]] == record[1]
        np.testing.assert_array_equal(data.train.source.pixels[i].transpose(2, 0, 1).ravel(), record[2:])


def test_all_is_the_whole_of_cifar100(tmp_path):
    fake_cifar.write_folder(tmp_path / FOLDER)
    data = load(tmp_path, "all")
    assert len(data.class_names) == 100 and data.known_classes == set(range(80))
    assert data.train.ids == tuple(f"train/{i:05d}" for i in range(200))
    assert not set(data.train.ids) & set(data.test.ids)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_an_archive_gives_the_same_as_the_folder_and_is_unpacked_once(tmp_path, cache, ending):
    fake_cifar.write_folder(tmp_path / "plain" / FOLDER)
    (tmp_path / "packed").mkdir()
    archive = fake_cifar.write_archive(tmp_path / "packed" / f"{FOLDER}.tar.{ending}")
    data = load(tmp_path / "packed")
    assert data.digest == load(tmp_path / "plain").digest == load(tmp_path / "plain" / FOLDER).digest == load(archive).digest
    (unpacked,) = (cache / "data").iterdir()
    stamp = (unpacked / "train.bin").stat().st_mtime_ns
    assert load(tmp_path / "packed").digest == data.digest
    assert (unpacked / "train.bin").stat().st_mtime_ns == stamp
    assert list((tmp_path / "packed").iterdir()) == [archive]


def test_a_cache_that_lost_a_file_is_filled_again(tmp_path, cache):
    fake_cifar.write_archive(tmp_path / f"{FOLDER}.tar.gz")
    before = load(tmp_path).digest
    next((cache / "data").iterdir()).joinpath("test.bin").unlink()
    assert load(tmp_path).digest == before


def test_a_changed_archive_is_unpacked_anew(tmp_path):
    fake_cifar.write_archive(tmp_path / f"{FOLDER}.tar.gz")
    first = load(tmp_path)
    members = {f"{FOLDER}/{n}": c for n, c in fake_cifar.contents(train_per_class=3).items()}
    archive = fake_cifar.write_archive(tmp_path / f"{FOLDER}.tar.gz", members)
    os.utime(archive, ns=(1, 1))
    assert load(tmp_path, expected=None).digest != first.digest


@pytest.mark.parametrize("missing", ["train.bin", "test.bin", "fine_label_names.txt"])
def test_a_missing_file_is_named(tmp_path, missing):
    (fake_cifar.write_folder(tmp_path / FOLDER) / missing).unlink()
    with pytest.raises(UserError, match=missing):
        load(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    path = fake_cifar.write_folder(tmp_path / FOLDER) / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train\.bin has 614799 bytes.*cut off"):
        load(tmp_path)


def test_an_empty_file_is_named(tmp_path):
    (fake_cifar.write_folder(tmp_path / FOLDER) / "test.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"test\.bin has 0 bytes"):
        load(tmp_path)


def test_a_wrong_number_of_records_is_refused_unless_any_is_allowed(tmp_path):
    fake_cifar.write_folder(tmp_path / FOLDER)
    with pytest.raises(UserError, match="200 records, expected 50000"):
        load_superclass(tmp_path, "trees")
    assert len(load(tmp_path, expected=None).train) == 10


def test_a_foreign_file_is_refused(tmp_path):
    path = fake_cifar.write_folder(tmp_path / FOLDER) / "train.bin"
    path.write_bytes(b"\xff" * 3074 * 200)
    with pytest.raises(UserError, match="labels outside"):
        load(tmp_path)


def test_wrong_names_are_refused(tmp_path):
    (fake_cifar.write_folder(tmp_path / FOLDER) / "fine_label_names.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="2 different names"):
        load(tmp_path)


def test_the_pickled_version_is_pointed_out(tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match="pickled Python version"):
        load(tmp_path)


@pytest.mark.parametrize("root", ["", "/does/not/exist"])
def test_without_data_and_download_the_error_says_what_to_do(root):
    with pytest.raises(UserError, match=r"allow the download, or fetch https://www.cs.toronto.edu/.*cifar-100-binary.tar.gz"):
        load(root)


def test_the_download_is_verified_and_kept(tmp_path, cache):
    (tmp_path / "www").mkdir()
    archive = fake_cifar.write_archive(tmp_path / "www" / "a.tar.gz")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    with serving(tmp_path / "www") as address:
        data = load("", download=True, url=f"{address}/a.tar.gz", md5=md5)
    assert len(data.train) == 10
    assert load("", md5=md5).digest == data.digest, "an earlier download needs neither network nor permission"
    assert [path.name for path in (cache / "data").iterdir()] == [f"{FOLDER}-{md5}"]


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path, cache):
    (tmp_path / "www").mkdir()
    fake_cifar.write_archive(tmp_path / "www" / "a.tar.gz")
    with serving(tmp_path / "www") as address, pytest.raises(UserError, match=f"md5 .*, expected {cifar100.MD5}: fetch"):
        load("", download=True, url=f"{address}/a.tar.gz")
    assert not list((cache / "data").iterdir())


def test_a_missing_page_is_a_user_error(tmp_path):
    with serving(tmp_path) as address, pytest.raises(UserError, match=r"404.*fetch https"):
        load("", download=True, url=f"{address}/a.tar.gz")


def test_without_network_one_line_says_exactly_what_to_do(tmp_path, cache):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        with pytest.raises(UserError, match=r"cannot download .* and put it into .*, or use dataset=digits") as error:
            load(tmp_path, download=True, url=f"http://127.0.0.1:{closed.getsockname()[1]}/a.tar.gz")
    assert "\n" not in str(error.value)
    assert not list((cache / "data").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / f"{FOLDER}.tar.xz").is_file(), reason="needs CIFAR-100 beside the repository (shared/data)")
def test_the_real_trees_have_their_published_counts():
    data = load_superclass(REAL, "trees")
    assert data.class_names == ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree")
    assert np.bincount(data.train.labels).tolist() == [500] * 5 and np.bincount(data.test.labels).tolist() == [100] * 5
