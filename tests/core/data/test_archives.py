import os
import tarfile

import pytest

from core.data import archives
from core.errors import UserError
from tests.core.data import fake_cifar

NAMES = ("a.bin", "b.txt")
GOOD = {"box/a.bin": b"aaa", "box/b.txt": b"b"}


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_only_the_wanted_files_are_written(tmp_path, ending):
    archive = fake_cifar.write_archive(tmp_path / f"x.tar.{ending}", GOOD | {"box/readme": b"r", "other/a.bin": b"x", "a.bin": b"y"})
    target = archives.unpack(archive, "box", NAMES, tmp_path / "out" / "box")
    assert everything_below(tmp_path / "out") == ["box", "box/a.bin", "box/b.txt"]
    assert (target / "a.bin").read_bytes() == b"aaa"


@pytest.mark.parametrize(
    "evil",
    [
        info("../evil.bin"),
        info("box/../../a.bin"),
        info("box/a.bin", tarfile.SYMTYPE, "/etc/passwd"),
        info("box/a.bin", tarfile.SYMTYPE, "../../outside"),
        info("box/a.bin", tarfile.LNKTYPE, "../../outside"),
        info("box/a.bin", tarfile.SYMTYPE, "b.txt"),
        info("box/a.bin", tarfile.FIFOTYPE),
        info("box/a.bin", tarfile.CHRTYPE),
        info("box/a.bin", tarfile.DIRTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_members_that_escape_or_are_no_plain_files_are_refused(tmp_path, evil):
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", GOOD, extra=(evil,))
    with pytest.raises(UserError, match=r"x\.tar\.gz"):
        archives.unpack(archive, "box", NAMES, tmp_path / "out" / "box")
    assert everything_below(tmp_path) == ["out", "x.tar.gz"]


def test_an_absolute_name_writes_nothing_outside(tmp_path):
    victim = tmp_path / "victim.bin"
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", {str(victim): b"evil", **GOOD})
    archives.unpack(archive, "box", NAMES, tmp_path / "out" / "box")
    assert not victim.exists() and everything_below(tmp_path / "out") == ["box", "box/a.bin", "box/b.txt"]


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, ending):
    archive = fake_cifar.write_archive(tmp_path / f"x.tar.{ending}", {"box/a.bin": os.urandom(5000), "box/b.txt": b"b"})
    content = archive.read_bytes()
    for broken in (b"", b"no archive", content[:20], content[: len(content) // 2]):
        archive.write_bytes(broken)
        with pytest.raises(UserError, match=rf"x\.tar\.{ending}"):
            archives.unpack(archive, "box", NAMES, tmp_path / "out" / "box")
        assert everything_below(tmp_path / "out") == []


def test_an_archive_of_something_else_is_refused(tmp_path):
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", {"box/a.bin": b"a"})
    with pytest.raises(UserError, match=r"lacks box/b\.txt"):
        archives.unpack(archive, "box", NAMES, tmp_path / "out")


def test_a_member_of_absurd_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_MEMBER", 2)
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", GOOD)
    with pytest.raises(UserError, match="sensible size"):
        archives.unpack(archive, "box", NAMES, tmp_path / "out")


def test_the_process_that_comes_second_uses_what_the_first_unpacked(tmp_path, monkeypatch):
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", GOOD)
    target, extract = tmp_path / "out" / "box", archives._extract

    def overtaken(*args):
        monkeypatch.setattr(archives, "_extract", extract)
        archives.unpack(archive, "box", NAMES, target)
        (target / "marker").touch()
        return extract(*args)

    monkeypatch.setattr(archives, "_extract", overtaken)
    assert archives.unpack(archive, "box", NAMES, target) == target
    assert everything_below(tmp_path / "out") == ["box", "box/a.bin", "box/b.txt", "box/marker"]


def test_a_cache_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    archive = fake_cifar.write_archive(tmp_path / "x.tar.gz", GOOD)
    with pytest.raises(UserError, match="set TAXON_CACHE"):
        archives.unpack(archive, "box", NAMES, tmp_path / "file" / "box")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path))
    assert archives.cache_root() == tmp_path / "data"
    monkeypatch.delenv("TAXON_CACHE")
    assert archives.cache_root().parts[-3:] == (".cache", "taxon", "data")
