"""A validation part that is split off: by class, by whole groups of alike images, from the seed; one line says so."""

import numpy as np
import pytest
from PIL import Image

from core.data import longtail
from core.data.validation import together

COUNTS = {"bark": 30, "leaf": 11, "root": 4, "seed": 2, "tuft": 1}
PAIRS = [(0, 1), (1, 2), (30, 31)]  # of one look: two brighter copies of one bark, one of a leaf
GROUPED = [(3, 4), (4, 5), (41, 42)]  # of one group, as the user says it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return class folders of noise, each image a picture of its own but for PAIRS, and a table of them with groups."""
    root, rng = tmp_path_factory.mktemp("plants"), np.random.default_rng(0)
    pictures = [rng.integers(0, 200, (4, 4, 3)) for _ in range(sum(COUNTS.values()))]
    for one, other in PAIRS:
        pictures[other] = pictures[one] + 3
    names = [f"{name}/{i:02d}.png" for name, count in COUNTS.items() for i in range(count)]
    for name, pixels in zip(names, pictures, strict=True):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC).save(root / "train" / name)
    group = {i: f"plant {min(pair)}" if i != 5 else "plant 3" for pair in GROUPED for i in pair} | {4: "plant 3"}
    rows = [f"{name},{name.split('/')[0]},{group.get(i, '')}" for i, name in enumerate(names)]
    (root / "train.csv").write_text("\n".join(["image_path,label,group", *rows]) + "\n")
    return root


def loaded(folder, seed=1, share=0.1, listed=True):
    meta = str(folder / "train.csv") if listed else ""
    return longtail.load(str(folder / "train"), "", "", meta, "", "", "", share, seed)


def numbers_of(data) -> list[int]:
    """Return which images of the folder, in order, the validation part holds."""
    everything = sorted((*data.train.ids, *data.val.ids))
    return [everything.index(name) for name in data.val.ids]


def test_each_class_gives_its_share_and_at_least_one_image_but_for_the_last(folder, capsys):
    data = loaded(folder, listed=False)
    assert np.bincount(data.val.labels, minlength=5).tolist() == [3, 1, 1, 1, 0] and len(data.train) == 48 - 6
    assert data.val.ids[0].startswith("train/bark/") and not set(data.train.ids) & set(data.val.ids)
    assert sorted((*data.train.source.file_digests, *data.val.source.file_digests)) == sorted(
        longtail.load(str(folder / "train"), *[""] * 6).train.source.file_digests
    )
    said = f"6 of the 48 images of {folder}/train are it (val_share = 0.1, seed = 1; duplicates and groups stay together)"
    assert capsys.readouterr().err == f"taxon: no validation part was given: {said}; without any, as a single image or group: tuft\n"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_images_of_one_group_or_one_look_are_never_parted(folder, share):
    held = set()
    for seed in range(20):
        data = loaded(folder, seed, share)
        found = numbers_of(data)
        assert all((one in found) == (other in found) for one, other in PAIRS + GROUPED)
        counts = np.bincount(data.val.labels, minlength=5)
        assert (counts <= np.array([15, 5, 2, 1, 0])).all() and (counts[:4] > 0).all()
        held |= set(found)
    assert {0, 3, 30, 41} <= held or share < 0.5


def test_the_seed_decides_and_where_the_images_lie_does_not(folder, tmp_path):
    assert numbers_of(loaded(folder)) == numbers_of(loaded(folder)) != numbers_of(loaded(folder, seed=2))
    (tmp_path / "moved").symlink_to(folder / "train")
    moved = longtail.load(str(tmp_path / "moved"), "", "", str(folder / "train.csv"), "", "", "", 0.1, 1)
    assert moved.digest == loaded(folder).digest != loaded(folder, seed=2).digest


def test_a_part_that_is_given_is_left_as_it_is(folder, capsys):
    data = longtail.load(*[str(folder / "train")] * 2, *[""] * 5, 0.1, 1)
    assert len(data.val) == len(data.train) == 48 and capsys.readouterr().err == ""


def test_an_image_of_two_classes_trains(folder, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for i in range(2):
            source = folder / "train" / "bark" / f"{10 + 2 * (name == 'y') + i if i else 10}.png"
            (tmp_path / name / f"{i}.png").write_bytes(source.read_bytes())
    data = longtail.load(str(tmp_path), *[""] * 6, 0.5, 0)
    assert sorted(data.val.ids) == ["train/x/1.png", "train/y/1.png"]


def test_groups_are_joined_by_chains(folder):
    data = longtail.load(str(folder / "train"), *[""] * 6)
    names = [""] * 48
    names[2], names[9] = "a", "a"
    found = together(data.train, names)
    assert len(set(found[[0, 1, 2, 9]].tolist())) == 1 and len(set(found.tolist())) == 48 - 3 - 1
