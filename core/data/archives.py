"""Fetching and unpacking data archives: verified, atomic, and never a byte outside the folder meant for it."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from core.errors import UserError
from core.places import cache_home
from core.progress import bar

_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without an answer
_MAX_MEMBER = 1 << 30  # bytes; far above any file this project unpacks


def cache_root() -> Path:
    """Return the folder for unpacked data: $TAXON_CACHE/data, else ~/.cache/taxon/data."""
    return cache_home() / "data"


def is_complete(folder: Path, names: tuple[str, ...]) -> bool:
    """Return whether all files are there."""
    return all((folder / name).is_file() for name in names)


def unpack(archive: Path, folder: str, names: tuple[str, ...], target: Path) -> Path:
    """Unpack the files `folder/<name>` of a tar archive (gz or xz) into `target` and return it; done already = nothing to do.

    Only these files are written, under these names; other harmless members are skipped. The folder appears at once or not at
    all. Raises UserError for a damaged archive, one without these files, or one with a member that tries to escape.
    """
    if is_complete(target, names):
        return target
    shutil.rmtree(target, ignore_errors=True)  # somebody removed a part of it
    with _appearing(target) as scratch:
        try:
            found = _extract(archive, folder, names, scratch)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
            raise UserError(f"{archive} cannot be unpacked ({error}): fetch it again, or free space in {target.parent}") from None
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(f"{archive} is not the expected archive: it lacks {folder}/{missing[0]}; fetch the binary version")
    return target


def _extract(archive: Path, folder: str, names: tuple[str, ...], scratch: Path) -> set[str]:
    """Write the wanted members into `scratch` and return their names."""
    found = set()
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            try:
                tarfile.data_filter(member, str(scratch))
            except tarfile.FilterError as error:
                raise UserError(f"{archive} is not safe to unpack ({error}): fetch it again from its publisher") from None
            path = PurePosixPath(member.name)
            if path.parts != (folder, path.name) or path.name not in names:
                continue
            opened = tar.extractfile(member) if member.isfile() and member.size <= _MAX_MEMBER else None
            if opened is None:
                raise UserError(f"{archive}: {member.name} is not a plain file of a sensible size: fetch the archive again")
            with opened as source, open(scratch / path.name, "wb") as file:
                for block in bar(_blocks(source), f"unpacking {path.name}", total=-(-member.size // _BLOCK)):
                    file.write(block)
            found.add(path.name)
    return found


def download(url: str, md5: str, file: Path, remedy: str) -> Path:
    """Fetch `url` into `file`, which appears only when its md5 is right. UserError (ending in `remedy`) when it cannot be had."""
    checksum, received = hashlib.md5(usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(file, "wb") as out:
            size = int(answer.headers.get("Content-Length") or 0)
            for block in bar(_blocks(answer), f"downloading {file.name} (MiB)", total=-(-size // _BLOCK) or None):
                checksum.update(block)
                received += len(block)
                out.write(block)
    except (OSError, HTTPException, ValueError) as error:
        file.unlink(missing_ok=True)
        raise UserError(f"cannot download {url} ({error}): {remedy}") from None
    if checksum.hexdigest() != md5:
        file.unlink()
        raise UserError(f"{url} gave {received} bytes with md5 {checksum.hexdigest()}, expected {md5}: {remedy}")
    return file


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give a scratch folder that becomes `target` at the end; removed on failure, or when another process was first."""
    with scratch_folder(target.parent) as scratch:
        inner = scratch / "content"
        inner.mkdir()
        yield inner
        try:
            inner.rename(target)
        except OSError:
            if not target.is_dir():
                raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a temporary folder in `parent` (made when absent); UserError when nothing can be written there."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unpack-", dir=parent))
    except OSError as error:
        raise UserError(f"cannot write to the cache {parent} ({error.strerror}): set TAXON_CACHE to a folder that can be written") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK), b"")
