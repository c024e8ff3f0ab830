from types import SimpleNamespace

import pytest

from core.data import catalog
from core.errors import UserError
from tests.core.data import fake_cifar
from tests.core.data.test_folders import picture
from tests.core.stages.tiny import refused


def test_every_data_set_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TAXON_CACHE", str(tmp_path / "cache"))
    assert catalog.load("digits", "", "trees", "8", False).novel_classes == {8}
    picture(tmp_path / "pets" / "train" / "dog" / "a.png")
    assert catalog.load("folder", str(tmp_path / "pets"), "", "", False).name == "folder/pets"
    fake_cifar.write_folder(tmp_path / "cifar-100-binary")
    with pytest.raises(UserError, match="200 records, expected 50000"):
        catalog.load("cifar100", str(tmp_path), "trees", "", False)


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cifar100'"):
        catalog.load("cifar10", "", "trees", "", False)


def test_what_lies_in_a_folder_is_recognised(tmp_path):
    picture(tmp_path / "pets" / "train" / "dog" / "a.png")
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "cifar-100-binary.tar.xz").touch()
    assert catalog.recognised(str(tmp_path / "pets")) == "folder"
    assert catalog.recognised(str(tmp_path / "cifar")) == "cifar100"


@pytest.mark.parametrize(("where", "said"), [("nowhere", "is not a folder"), ("pets/train", "holds no data set that is known")])
def test_a_folder_that_is_no_data_set_names_the_layouts(tmp_path, where, said):
    picture(tmp_path / "pets" / "train" / "dog" / "a.png")
    with pytest.raises(UserError, match=rf"data_root '.*' {said}; expected <data_root>/train/<class>.*/unlabelled/.*images=<file.csv>"):
        catalog.recognised(str(tmp_path / where))


@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 300])
@pytest.mark.parametrize("option", ["data_root", "images"])
def test_a_path_that_no_system_can_have_names_its_option(tmp_path, path, option):
    asked = SimpleNamespace(data_root=path, images="")
    calls = [lambda: catalog.recognised(path), lambda: catalog.labels_are_given(asked)]
    calls += [lambda: catalog.load("folder", path, "", "", False)]
    for call in calls if option == "data_root" else [lambda: catalog.load("folder", "data", "", "", False, path)]:
        assert refused(call).startswith(f"{option} = '{path[:50]}")


def test_a_folder_below_one_that_is_not_utf8_is_refused_before_it_is_read(tmp_path):
    above = tmp_path / "photos \udcff"
    try:
        picture(above / "leaves" / "unlabelled" / "a.png")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    (tmp_path / "t.csv").write_text("path\nunlabelled/a.png\n")
    for call in (
        lambda: catalog.load("folder", str(above / "leaves"), "", "", False),
        lambda: catalog.load("folder", str(above / "leaves"), "", "", False, str(tmp_path / "t.csv")),
    ):
        assert "data_root = '" in (line := refused(call)) and r"photos \udcff/leaves is not valid UTF-8; rename that" in line
