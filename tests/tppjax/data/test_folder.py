"""Pictures of one's own in class folders: any format, one size, labels by name, and what is wrong by file."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tppjax import data
from tppjax.data import Preprocessing, folder
from tppjax.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = {name: RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8) for name in ("a.png", "b.bmp", "c.webp", "d.PNG")}


def save(root, name, pixels, **options):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name, **options)


@pytest.fixture
def root(tmp_path):
    """Two classes of each split, the test split called `val`; 5 x 4 pixels, in colour."""
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            for name, pixels in PIXELS.items():
                options = {"lossless": True} if name == "c.webp" else {}
                save(tmp_path, f"{split}/{label}/{name}", pixels if label == "ant" else 255 - pixels, **options)
    (tmp_path / "train" / "ant" / ".DS_Store").touch()
    return tmp_path


def test_pixels_and_labels_are_those_of_the_files(root):
    info = data.info("folder", root)
    assert (info.input_shape, info.class_names) == ((5, 4, 3), ("ant", "bee"))
    whole = np.stack([*PIXELS.values(), *(255 - p for p in PIXELS.values())])
    np.testing.assert_allclose(info.mean, whole.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(info.std, whole.std((0, 1, 2)) / 255)
    for split in ("train", "test"):
        found = data.load("folder", split, root, preprocessing=info)
        assert (found.images.shape, found.images.dtype) == ((8, 5, 4, 3), np.uint8)
        by_label = {(pixels.tobytes(), label) for pixels, label in zip(found.images, found.labels, strict=True)}
        assert by_label == {(p.tobytes(), 0) for p in PIXELS.values()} | {
            ((255 - p).tobytes(), 1) for p in PIXELS.values()
        }
        assert len(set(found.labels[:4])) == 2  # the first few are of any class
    some = data.load("folder", "test", root, lambda n: np.array([4, 1]), preprocessing=info)
    np.testing.assert_array_equal(some.images, found.images[[4, 1]])
    np.testing.assert_array_equal(some.labels, found.labels[[4, 1]])


def test_grey_pictures_have_one_channel(tmp_path):
    for split in ("train", "test"):
        save(tmp_path, f"{split}/0/a.png", PIXELS["a.png"][..., 0])
        save(tmp_path, f"{split}/1/b.png", PIXELS["a.png"][..., 1])
    info = data.info("folder", tmp_path)
    assert info.input_shape == (5, 4, 1)
    assert data.load("folder", "train", tmp_path).images.shape == (2, 5, 4, 1)
    colours = Preprocessing("other", (5, 4, 3), (0.5,) * 3, (0.5,) * 3, ("0", "1"))
    found = data.load("folder", "test", tmp_path, preprocessing=colours).images
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    save(tmp_path, "train/1/c.png", PIXELS["a.png"])
    assert data.info("folder", tmp_path).input_shape == (5, 4, 3)


def test_pictures_of_several_sizes_are_brought_to_one(root):
    halves = np.zeros((10, 20, 3), np.uint8)
    halves[:, 5:15] = 200  # the middle, which is square
    save(root, "train/ant/e.png", halves)
    save(root, "val/ant/e.png", halves)
    with pytest.raises(InputError, match=r"a\.png has 4 x 5 pixels, and .*ant/e\.png has 20 x 10: give --size"):
        data.info("folder", root)
    info = data.info("folder", root, size=6)
    assert info.input_shape == (6, 6, 3)
    found = data.load("folder", "test", root, preprocessing=info).images
    assert found.shape == (9, 6, 6, 3)
    assert any((pixels[:, 1:-1] == 200).all() for pixels in found)
    as_imagenets = replace(info, resize=12)
    assert data.load("folder", "test", root, preprocessing=as_imagenets).images.shape == (9, 6, 6, 3)
    # A network for pictures of another size sees them in its own.
    assert data.load("folder", "test", root, preprocessing=replace(info, input_shape=(8, 3, 3))).images.shape == (
        9,
        8,
        3,
        3,
    )


def test_classes_are_the_networks(root):
    preprocessing = data.info("folder", root)
    (root / "val" / "ant").rename(root / "aside")
    assert set(data.load("folder", "test", root, preprocessing=preprocessing).labels) == {1}
    turned = replace(preprocessing, class_names=("bee", "cat", "ant"))
    assert set(data.load("folder", "train", root, preprocessing=turned).labels) == {0, 2}
    numbers = replace(preprocessing, class_names=("0", "1"))
    assert set(data.load("folder", "train", root, preprocessing=numbers).labels) == {0, 1}
    for other, named in ((("ant", "cat"), "2 classes are ant, cat"), (("0", "1", "2"), "3 classes are 0, 1, 2")):
        with pytest.raises(InputError, match=rf"train has the class (bee|ant), which the network .* its {named}"):
            data.load("folder", "train", root, preprocessing=replace(preprocessing, class_names=other))


def test_numbered_folders_of_a_network_without_names(root):
    """Up to ten have the same order as text and as numbers; of more, PyTorch's ImageFolder sorts them as text."""
    for name, number in (("ant", 0), ("bee", 1)):
        (root / "train" / name).rename(root / "train" / str(number))
    for i in range(2, 11):
        save(root, f"train/{i}/a.png", PIXELS["a.png"])
    trained = data.info("folder", root)
    assert trained.class_names[:3] == ("0", "1", "10")
    assert set(data.load("folder", "train", root, preprocessing=trained).labels) == set(range(11))
    without_names = replace(trained, class_names=tuple(map(str, range(11))))
    for numbers in ("0 1 2 3 4 5 6 7 8 9 10", "0 1 2 3 4 6 7 8 9 10"):
        assert set(numbers.split()) == {f.name for f in (root / "train").iterdir()}
        with pytest.raises(InputError, match=r"numbered folders, .* rename the folders to 00, 01"):
            data.load("folder", "train", root, preprocessing=without_names)
        shutil.rmtree(root / "train/5", ignore_errors=True)
    (root / "train/10").rename(root / "train/5")
    ten = replace(trained, class_names=tuple(map(str, range(10))))
    assert set(data.load("folder", "train", root, preprocessing=ten).labels) == set(range(10))
    for i in range(10):
        (root / f"train/{i}").rename(root / f"train/0{i}")
    save(root, "train/10/a.png", PIXELS["a.png"])
    assert set(data.load("folder", "train", root, preprocessing=without_names).labels) == set(range(11))


def test_damaged_pictures_are_named_together(root):
    preprocessing = data.info("folder", root)
    content = (root / "val/bee/a.png").read_bytes()
    (root / "val/bee/a.png").write_bytes(content[:-30])
    (root / "val/ant/b.bmp").write_bytes(b"")
    with pytest.raises(InputError, match=r"can't be read") as refused:
        data.load("folder", "test", root, preprocessing=preprocessing)
    assert all(str(root / name) in str(refused.value) for name in ("val/bee/a.png", "val/ant/b.bmp"))
    assert "\n" not in str(refused.value)
    for name in PIXELS:
        (root / "val/bee" / name).write_bytes(b"GIF")
    with pytest.raises(InputError, match=r"; \.\.\.$"):
        data.load("folder", "test", root, preprocessing=preprocessing)


def _empty(root):
    for file in (root / "train" / "bee").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda root: (root / "train").rename(root / "t"), FileNotFoundError, r"no train pictures; .*train/CLASS/\*$"),
        (lambda root: (root / "train/list.csv").touch(), InputError, "train must hold a folder for each class"),
        (lambda root: (root / "train/bee/list.csv").touch(), InputError, r"others: list\.csv \(1 in all\)"),
        (_empty, InputError, "train/bee is empty; every class needs pictures"),
        (
            lambda root: (root / "train/ant").rename(root / "train/a\nb"),
            InputError,
            r"class 'a\\nb': a class's name is",
        ),
        (lambda root: (root / "train/bee/x.png").mkdir(), InputError, r"x\.png is a folder, a pipe or a device"),
        (
            lambda root: Image.fromarray(np.zeros((5, 4), np.uint16)).save(root / "train/bee/x.png"),
            InputError,
            r"x\.png has Pillow's mode I(;16)?, not 8 bits",
        ),
    ],
)
def test_what_lies_there_otherwise(root, change, error, message):
    change(root)
    with pytest.raises(error, match=message):
        data.info("folder", root)


def test_what_can_not_be_read_at_all(root, monkeypatch):
    with pytest.raises(InputError, match=r"needs data_dir, the folder with train/CLASS/\* and test"):
        data.info("folder")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.info("folder", root / "none")
    (root / "val").rename(root / "other")
    preprocessing = data.info("folder", root)
    with pytest.raises(FileNotFoundError, match=r"no test pictures; looked for test/CLASS/\* or val/CLASS/\* or"):
        data.load("folder", "test", root, preprocessing=preprocessing)
    with pytest.raises(InputError, match=r"pictures have 1 or 3 channels and no frames; .* \(5, 4, 2\)"):
        data.load("folder", "train", root, preprocessing=Preprocessing("a", (5, 4, 2), (0, 0), (1, 1), ("ant", "bee")))
    with pytest.raises(InputError, match=r"8 pictures of \(65536, 65536, 3\) would take 96.0 GiB.*smaller --size"):
        data.info("folder", root, size=2**16)
    monkeypatch.setattr(folder, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match="input_shape is"):
        data.info("folder", root, size=2**17)
