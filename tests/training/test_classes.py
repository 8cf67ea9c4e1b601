"""Which class a folder of pictures is, and what of a folder counts. Kind: training folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trt_var.errors import DataError
from trt_var_export.weights.names import imagenet_ids, imagenet_names
from trt_var_training.classes import assign
from trt_var_training.data import FolderImages

NAMES = ["tench, Tinca tinca", "crane", "sea otter", "crane, fisher", "goldfish"]


@pytest.mark.parametrize(
    ("folders", "classes", "names", "expected"),
    [
        ([str(i) for i in range(12)], 12, [], {str(i): i for i in range(12)}),
        (["0", "2", "10"], 12, [], {"0": 0, "2": 2, "10": 10}),
        (["007", "01"], 10, [], {"01": 1, "007": 7}),
        (["3", "1"], None, [], {"1": 1, "3": 3}),
        (["dog", "cat"], 2, [], {"cat": 0, "dog": 1}),
        (["class10", "class2", "class1"], 3, [], {"class1": 0, "class2": 1, "class10": 2}),
        (["Sea_Otter", "tinca-tinca"], 5, NAMES, {"tinca-tinca": 0, "Sea_Otter": 2}),
        (["crane, fisher"], 5, NAMES, {"crane, fisher": 3}),
        (["4", "0"], 5, NAMES, {"0": 0, "4": 4}),
        (["1", "2", "3"], 3, ["1", "2", "3"], {"1": 0, "2": 1, "3": 2}),
        (["n01443537", "n15075141", "n01440764"], 1000, [], {"n01440764": 0, "n01443537": 1, "n15075141": 999}),
        (["n02085620-Chihuahua"], 1000, imagenet_names(), {"n02085620-Chihuahua": 151}),
        (["n02085620-Chihuahua", "n01440764"], 2, [], {"n01440764": 0, "n02085620-Chihuahua": 1}),
    ],
)
def test_classes_of_folders(folders: list[str], classes: int | None, names: list[str], expected: dict[str, int]) -> None:
    assert list(assign(folders, classes, names).labels.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("folders", "classes", "names", "message"),
    [
        (
            ["a", "b", "c"],
            10,
            [],
            r"3 folders for the 10 classes.*a → 0, b → 1, c → 2\); name them by class numbers, 0 to 9",
        ),
        (["a", "b", "c"], 2, [], "3 folders for the 2 classes"),
        ([*"012345678", "extra"], 10, [], "9 folders are named by numbers, e.g. 0, and 1 are not, e.g. extra"),
        (["n01440764", "misc"], 1000, [], "1 folders are named by WordNet ids"),
        (["n01440764", "n00000001"], 1000, [], "n00000001 is none of ImageNet's"),
        ([str(i) for i in range(1, 11)], 10, [], "folder 10 is no class .* 0 to 9; classes are numbered from 0"),
        (["99"], 10, [], "folder 99 is no class"),
        (["1", "01"], 10, [], "01 and 1 are both class 1"),
        (["goldfish", "unicorn"], 5, NAMES, "1 folders are named as the model's classes, and 1 are not, e.g. unicorn"),
        (["crane"], 5, NAMES, "crane is the name of several classes: 1, 3"),
        (["tench", "Tinca tinca"], 5, NAMES, "are both class 0"),
        (["-1", "2"], 10, [], "and 1 are not, e.g. -1"),
        (["٣", "2"], 10, [], "and 1 are not"),
    ],
)
def test_what_is_not_clear_is_refused(folders: list[str], classes: int, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign(folders, classes, names)


def test_imagenet_ids_fit_the_names() -> None:
    ids, names = imagenet_ids(), imagenet_names()
    assert len(ids) == len(set(ids)) == len(names) == 1000
    assert ids == sorted(ids)
    known = {
        "n01440764": "tench",
        "n02123045": "tabby",
        "n02444819": "otter",
        "n07753592": "banana",
        "n15075141": "toilet tissue",
    }
    for one, name in known.items():
        assert names[ids.index(one)].split(",")[0] == name


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="PNG")


SYSTEM = [".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir", ".git", "$RECYCLE.BIN", "System Volume Information"]


def test_hidden_and_system_entries_do_not_count(tmp_path: Path) -> None:
    for i in range(12):
        picture(tmp_path / str(i) / "a.png")
    for name in SYSTEM:
        picture(tmp_path / name / "a.png")
        picture(tmp_path / "3" / name / "b.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "2" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "4" / "scan.bmp").touch()
    images = FolderImages(tmp_path, 8, classes=12)
    assert images.classes == [str(i) for i in range(12)]
    assert images.labels == list(range(12))
    assert [path.relative_to(tmp_path).as_posix() for path in images.paths] == [f"{i}/a.png" for i in range(12)]
    told = "; ".join(images.left_out)
    assert "hidden and system folders: $RECYCLE.BIN, .git" in told
    assert "1 hidden files, e.g. 2/._a.png" in told
    assert "1 .bmp files" in told


def test_pictures_in_folders_below(tmp_path: Path) -> None:
    """As tiny-imagenet has them; links to folders count, and a link in a circle ends."""
    picture(tmp_path / "data" / "0" / "images" / "a.png")
    picture(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "data" / "1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "0" / "circle").symlink_to(tmp_path / "data" / "0")
    picture(tmp_path / "data" / "2" / "c.png")
    picture(tmp_path / "data" / "2" / "thumbs" / "d.png")
    images = FolderImages(tmp_path / "data", 8, classes=3)
    assert [path.name for path in images.paths] == ["a.png", "b.png", "c.png"]
    assert images.labels == [0, 1, 2]
    assert images.left_out == ["1 pictures in folders below 2, which has pictures itself"]


def test_splits_and_empty_classes(tmp_path: Path) -> None:
    for name in ("train", "val"):
        picture(tmp_path / "splits" / name / "cat" / "a.png")
    with pytest.raises(DataError, match=r"splits \(train, val\), not classes; give .*splits/train"):
        FolderImages(tmp_path / "splits", 8, classes=2)
    picture(tmp_path / "named" / "cat" / "a.png")
    (tmp_path / "named" / "new folder").mkdir()
    with pytest.raises(DataError, match=r"new folder holds no pictures"):
        FolderImages(tmp_path / "named", 8, classes=2)
    (tmp_path / "numbered" / "0").mkdir(parents=True)
    picture(tmp_path / "numbered" / "1" / "a.png")
    images = FolderImages(tmp_path / "numbered", 8, classes=2)
    assert (images.labels, images.left_out) == ([1], ["1 classes without pictures, e.g. 0"])
