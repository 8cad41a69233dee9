"""STL-10, CIFAR-10, MS-COCO and PASCAL VOC in their published layout: read back right, and clear when damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2r2.errors import S2R2Error
from s2r2.images import PixelStore, open_source
from s2r2.images.sources.kinds.stl10 import CLASSES

VOC_XML = """<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>
<size><width>24</width><height>20</height><depth>3</depth></size>{objects}</annotation>"""
VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"""


def save_jpeg(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), colour).save(path)


@pytest.fixture
def stl10(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The folder that holds stl10_binary, and the 20 training images (N, 96, 96, 3)."""
    folder = tmp_path / "data" / "stl10_binary"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 255, (20, 96, 96, 3), dtype=np.uint8)
    for part, count in (("train", 20), ("test", 6), ("unlabeled", 9)):
        # In the files: image, channel, column, row.
        images[:count].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "fold_indices.txt").write_text("\n".join(" ".join(map(str, range(i, 20, 2))) for i in range(2)) + "\n")
    return folder.parent, images


def test_stl10_is_read_back(stl10: tuple[Path, np.ndarray]) -> None:
    folder, images = stl10
    for place in (folder, folder / "stl10_binary"):
        source = open_source(f"{place}:train")
        assert len(source) == 20
        for i in range(20):
            np.testing.assert_array_equal(source.read(i), images[i])
        assert source.labels is not None
        assert [source.labels.names[c] for c in source.labels.single[:10]] == list(CLASSES)
    unlabeled = open_source(f"{folder}:unlabeled")
    assert (len(unlabeled), unlabeled.labels) == (9, None)
    together = open_source(f"{folder}:train+unlabeled")
    assert len(together) == 29
    assert together.labels is not None
    assert (together.labels.single[20:] == -1).all()
    assert len(open_source(folder)) == 35


def test_stl10_folds_reach_the_store(stl10: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    store = PixelStore.build(open_source(f"{stl10[0]}:train"), 96, tmp_path / "stores", progress=False)
    assert [fold.tolist() for fold in store.folds] == [list(range(0, 20, 2)), list(range(1, 20, 2))]
    np.testing.assert_array_equal(store[7], stl10[1][7])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_X.bin", b"\0" * 27_647, "not a whole number"),
        ("train_X.bin", b"", "not a whole number"),
        ("train_y.bin", b"\1" * 19, "19 labels for 20 images"),
        ("train_y.bin", b"\0" * 20, "not between 1 and 10"),
        ("train_y.bin", None, r"cannot read .*train_y\.bin.*; fetch .* from https://cs.stanford.edu"),
        ("fold_indices.txt", b"1 2 20\n", "beyond the 20"),
        ("fold_indices.txt", b"1 two\n", "fold_indices"),
    ],
)
def test_damaged_stl10_is_named(stl10: tuple[Path, np.ndarray], file: str, content: bytes | None, message: str) -> None:
    path = stl10[0] / "stl10_binary" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(S2R2Error, match=message):
        open_source(f"{stl10[0]}:train")


def test_parts_that_are_not_there_are_named(stl10: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(S2R2Error, match=r"no part valid: use train, test, unlabeled"):
        open_source(f"{stl10[0]}:valid")
    save_jpeg(tmp_path / "plain" / "a.jpg")
    with pytest.raises(S2R2Error, match="has no part train"):
        open_source(f"{tmp_path / 'plain'}:train")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two parts; in val: dog and cat, dog twice, none, and one image that is not on disk."""
    folder = tmp_path / "coco"
    for name in ("000000000001", "000000000002", "000000000003"):
        save_jpeg(folder / "val2017" / f"{name}.jpg")
    save_jpeg(folder / "train2017" / "000000000009.jpg")
    write_annotations(folder, "val2017", [1, 2, 3, 4], [(1, 18), (1, 17), (2, 18), (2, 18), (4, 17)])
    write_annotations(folder, "train2017", [9], [(9, 17)])
    return folder


def write_annotations(folder: Path, part: str, images: list[int], pairs: list[tuple[int, int]]) -> Path:
    content = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 20, "width": 24} for i in images],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
            for n, (i, c) in enumerate(pairs)
        ],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{part}.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_is_read_back(coco: Path, tmp_path: Path) -> None:
    for data in (f"{coco}:val2017", coco / "val2017", coco / "annotations" / "instances_val2017.json"):
        source = open_source(data)
        assert len(source) == 4
        assert source.labels is not None
        assert source.labels.names == ["cat", "dog"]
        assert source.labels.targets.tolist() == [[True, True], [False, True], [False, False], [True, False]]
        store = PixelStore.build(source, 16, tmp_path / "stores", progress=False)
        assert len(store) == 3
        assert [(s.key, s.reason) for s in store.skipped] == [("000000000004.jpg", "No such file or directory")]
    assert len(open_source(coco)) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "'images' is missing"),
        ('{"images": [], "categories": [], "annotations": []}', "names no images"),
        ('{"images": [{"id": 1, "file_name": "../x.jpg"}], "categories": [], "annotations": []}', "is no file name"),
        ('{"images": [{"id": 1, "file_name": "gone.jpg"}], "categories": [], "annotations": []}', "unpack them there"),
    ],
)
def test_damaged_coco_is_named(coco: Path, content: str, message: str) -> None:
    (coco / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(S2R2Error, match=message):
        open_source(f"{coco}:val2017")


def test_coco_images_without_their_annotations_say_which_file_is_missing(coco: Path) -> None:
    (coco / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(S2R2Error, match=r"put instances_val2017\.json into .*annotations \(from https://cocodataset"):
        open_source(f"{coco}:val2017")
    assert open_source(coco / "val2017").labels is None


def test_annotations_of_unknown_categories_are_counted(coco: Path) -> None:
    write_annotations(coco, "val2017", [1, 2, 3], [(1, 18), (2, 99), (77, 17)])
    source = open_source(f"{coco}:val2017")
    assert [(p.key, p.reason) for p in source.problems] == [
        ("instances_val2017.json", "2 annotations of unknown images or categories")
    ]
    assert source.labels is not None
    assert source.labels.targets.sum() == 1


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    objects = {
        "000001": [("dog", 0), ("person", 0)],
        "000002": [("person", 0), ("person", 0), ("cat", 1)],
        "000003": [("cat", 0)],
    }
    (folder / "Annotations").mkdir(parents=True)
    for name, found in objects.items():
        save_jpeg(folder / "JPEGImages" / f"{name}.jpg")
        text = "".join(VOC_OBJECT.format(name=n, difficult=d) for n, d in found)
        (folder / "Annotations" / f"{name}.xml").write_text(VOC_XML.format(name=name, objects=text))
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000002\n")
    (folder / "ImageSets" / "Main" / "cat_trainval.txt").write_text("000001 -1\n000002  1\n")
    return folder


def test_voc_is_read_back(voc: Path) -> None:
    for place in (voc, voc.parent, voc.parent.parent):
        source = open_source(f"{place}:trainval")
        assert source.keys == ["JPEGImages/000001.jpg", "JPEGImages/000002.jpg"]
        assert source.labels is not None
        assert source.labels.names == ["dog", "person"]  # the cat is marked difficult
        assert source.labels.targets.tolist() == [[True, True], [False, True]]
    assert len(open_source(voc)) == 3


def test_missing_voc_annotations_are_counted_unless_none_was_published(voc: Path) -> None:
    (voc / "Annotations" / "000002.xml").unlink()
    source = open_source(f"{voc}:trainval")
    assert [(p.key, p.reason) for p in source.problems] == [
        ("Annotations", "1 annotations are missing: those images have no label")
    ]
    assert source.labels is not None
    assert source.labels.targets.any(1).tolist() == [True, False]
    (voc / "Annotations" / "000001.xml").unlink()
    assert open_source(f"{voc}:trainval").problems == []


def test_damaged_voc_is_said(voc: Path) -> None:
    with pytest.raises(S2R2Error, match="no part test: use trainval"):
        open_source(f"{voc}:test")
    (voc / "Annotations" / "000001.xml").write_text("<annotation>")
    (voc / "JPEGImages" / "000002.jpg").unlink()
    source = open_source(f"{voc}:trainval")
    assert [problem.key for problem in source.problems] == ["Annotations/000001.xml"]
    assert source.labels is not None
    assert source.labels.names == ["person"]
    store = PixelStore.build(source, 16, voc / "stores", progress=False)
    assert store.keys == ["JPEGImages/000001.jpg"]
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("../../secret\n")
    with pytest.raises(S2R2Error, match="is damaged"):
        open_source(f"{voc}:trainval")
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("")
    with pytest.raises(S2R2Error, match="fetch it again from http"):
        open_source(f"{voc}:trainval")


def test_parts_of_tables(tmp_path: Path, photos_if_there: Path | None) -> None:
    for name in "abc":
        save_jpeg(tmp_path / f"{name}.jpg")
    (tmp_path / "list.csv").write_text("path,label,split\na.jpg,x,train\nb.jpg,y,test\nc.jpg,x,train\n")
    train = open_source(f"{tmp_path / 'list.csv'}:train")
    assert train.keys == ["a.jpg", "c.jpg"]
    assert train.labels is not None
    assert train.labels.single.tolist() == [0, 0]
    assert train.read(1).shape == (20, 24, 3)
    stores = [
        PixelStore.build(open_source(data), 8, tmp_path / "stores", progress=False)
        for data in (tmp_path / "list.csv", f"{tmp_path / 'list.csv'}:test")
    ]
    assert [len(store) for store in stores] == [3, 1]
    with pytest.raises(S2R2Error, match="no part valid; it has train, test"):
        open_source(f"{tmp_path / 'list.csv'}:valid")
    if photos_if_there is not None:
        coco = f"{photos_if_there / 'coco_small_s160.tar'}"
        assert [len(open_source(f"{coco}:{part}")) for part in ("train", "test")] == [348, 318]


@pytest.fixture
def cifar10(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """The folder that holds cifar-10-batches-bin, and the images of every batch (N, 32, 32, 3)."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for batch, name in enumerate(names):
        rows = [
            bytes([(batch + i) % 10]) + images[4 * batch + i].transpose(2, 0, 1).tobytes()  # channel, row, column
            for i in range(4)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
    return folder, images


def test_cifar10_is_read_back(cifar10: tuple[Path, np.ndarray]) -> None:
    folder, images = cifar10
    for place in (folder, folder.parent):
        train, test = open_source(f"{place}:train"), open_source(f"{place}:test")
        assert (len(train), len(test)) == (20, 4)
        for i in range(20):
            np.testing.assert_array_equal(train.read(i), images[i])
        np.testing.assert_array_equal(test.read(3), images[23])
        assert test.labels is not None
        assert [test.labels.names[c] for c in test.labels.single] == ["dog", "frog", "horse", "ship"]
    assert len(open_source(folder)) == 20


def test_damaged_cifar10_says_which_file(cifar10: tuple[Path, np.ndarray]) -> None:
    folder, _ = cifar10
    with pytest.raises(S2R2Error, match="no part unlabeled"):
        open_source(f"{folder}:unlabeled")
    batch = folder / "data_batch_3.bin"
    contents = batch.read_bytes()
    batch.write_bytes(contents[:-1])
    with pytest.raises(S2R2Error, match=r"data_batch_3\.bin is damaged: 12,291 bytes"):
        open_source(f"{folder}:train")
    batch.write_bytes(b"\x0a" + contents[1:])
    with pytest.raises(S2R2Error, match="a label is not between 0 and 9"):
        open_source(f"{folder}:train")
    batch.unlink()
    with pytest.raises(S2R2Error, match=r"cannot read .*data_batch_3\.bin"):
        open_source(f"{folder}:train")


def test_pickled_cifar10_is_read_only_when_its_checksums_are_right(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(S2R2Error, match="damaged or incomplete"):
        open_source(tmp_path)
