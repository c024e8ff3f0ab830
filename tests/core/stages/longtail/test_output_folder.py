import json
from hashlib import sha256

import pytest

from core.errors import UserError
from core.stages.longtail import output_folder

FILES = {"train_metadata.csv": b"a\n", "val_metadata.csv": b"b\n", "class_weights.csv": b"c\n"}


def report(files: dict[str, bytes]) -> dict:
    return {"made_by": output_folder.ENTRY_POINT, "files": {name: sha256(content).hexdigest() for name, content in files.items()}}


def publish(folder, files=FILES):
    output_folder.require_usable(str(folder))
    output_folder.publish(str(folder), report(files), files)


def test_files_and_report_are_written_and_nothing_else(tmp_path):
    publish(tmp_path / "deep" / "out")
    found = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "out").iterdir()}
    assert json.loads(found.pop("report.json")) == report(FILES) and found == FILES


def test_own_files_are_replaced_and_those_of_absent_parts_removed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    publish(tmp_path)
    publish(tmp_path, {"train_metadata.csv": b"new\n", "class_weights.csv": b"c\n"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["class_weights.csv", "notes.txt", "report.json", "train_metadata.csv"]
    assert (tmp_path / "train_metadata.csv").read_bytes() == b"new\n"


@pytest.mark.parametrize("name", [*output_folder.NAMES, output_folder.REPORT])
def test_foreign_files_are_never_replaced(tmp_path, name):
    (tmp_path / name).write_text("foreign")
    with pytest.raises(UserError, match=f"{name} was not written by prepare_longtail"):
        output_folder.require_usable(str(tmp_path))
    assert (tmp_path / name).read_text() == "foreign"


def test_a_file_that_was_changed_since_is_not_replaced(tmp_path):
    publish(tmp_path)
    (tmp_path / "val_metadata.csv").write_text("corrected by hand")
    with pytest.raises(UserError, match=r"val_metadata\.csv .* or was changed since"):
        output_folder.require_usable(str(tmp_path))


def test_a_link_is_not_written_through(tmp_path):
    publish(tmp_path)
    (tmp_path / "val_metadata.csv").rename(tmp_path / "elsewhere.csv")
    (tmp_path / "val_metadata.csv").symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(UserError, match="was not written by"):
        output_folder.require_usable(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"made_by": "someone", "files": {}}', '{"made_by": "prepare_longtail"}', "\udcff"])
def test_a_report_that_is_none_vouches_for_nothing(tmp_path, content):
    publish(tmp_path)
    (tmp_path / "report.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="was not written by"):
        output_folder.require_usable(str(tmp_path))


@pytest.mark.parametrize("stop_at", ["report.json", "train_metadata.csv", "val_metadata.csv", "class_weights.csv"])
def test_a_run_that_was_stopped_in_between_can_be_repeated(tmp_path, monkeypatch, stop_at):
    publish(tmp_path)
    new = {name: content + b"new" for name, content in FILES.items()}
    write = output_folder.write_atomically

    def stopped(path, *rest):
        if path.name == stop_at:
            raise KeyboardInterrupt
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder, "write_atomically", stopped)
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path, new)
    publish(tmp_path, new)
    assert {name: (tmp_path / name).read_bytes() for name in new} == new


def test_no_folder_is_fine_and_a_file_is_none(tmp_path):
    output_folder.require_usable("")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        output_folder.require_usable(str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        output_folder.require_usable(str(tmp_path / "file" / "below"))


def test_a_folder_that_takes_no_files_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="takes no files from you"):
        output_folder.require_usable(str(tmp_path / "out"))
