"""Reading pictures from disk: against plain Pillow, in any number of processes, begun anywhere."""

import io
import json
import math
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.tppjax.data import pictures
from tppjax.data import Images, crops, imagenet, jpegs
from tppjax.errors import InputError

pytest.importorskip("grain", reason="needs grain: pip install 'tppjax[imagenet]'")
SIZE, RESIZE = 24, 29


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    jpegs.prepare(pictures.in_folders(folder / "source", pictures.contents()), folder, per_shard=4)
    return folder


@pytest.fixture(scope="module")
def preprocessing(prepared):
    return imagenet.info("imagenet2012", data_dir=prepared, size=SIZE, resize=RESIZE)


@pytest.fixture(scope="module")
def train(prepared, preprocessing):
    return imagenet.load("imagenet2012", "train", data_dir=prepared, preprocessing=preprocessing)


def originals(stored):
    """The pictures as Pillow has them, and their classes."""
    files = {key: content for split in pictures.contents().values() for key, content in split.items()}
    for place in stored.indices:
        example = stored.source[place]
        label = pictures.CLASSES[example["label"]]
        yield Image.open(io.BytesIO(files[label, example["file_name"].decode()])).convert("RGB"), example["label"]


def rows(stored, indices, seed=None):
    pixels, labels = zip(*stored.stream(indices, seed), strict=True)
    return np.stack(pixels), np.stack(labels)


def test_what_a_network_is_told(preprocessing):
    assert (preprocessing.input_shape, preprocessing.resize, preprocessing.interpolation) == (
        (SIZE, SIZE, 3),
        RESIZE,
        "bilinear",
    )
    assert preprocessing.class_names == tuple(pictures.CLASSES)
    assert (preprocessing.mean, preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_plain_pillow(prepared, preprocessing, interpolation):
    preprocessing = replace(preprocessing, interpolation=interpolation)
    for split, n in (("train", 15), ("test", 6)):
        stored = imagenet.load("imagenet2012", split, data_dir=prepared, preprocessing=preprocessing)
        assert len(stored) == n
        for image, label, (picture, wanted) in zip(stored.images, stored.labels, originals(stored), strict=True):
            w, h = picture.size
            size = (RESIZE, int(RESIZE * h / w)) if w <= h else (int(RESIZE * w / h), RESIZE)
            resized = np.asarray(picture.resize(size, getattr(Image.Resampling, interpolation.upper())))
            top, left = round((size[1] - SIZE) / 2.0), round((size[0] - SIZE) / 2.0)
            np.testing.assert_array_equal(image, resized[top : top + SIZE, left : left + SIZE])
            assert label == wanted


def test_only_what_is_chosen(prepared, preprocessing, train):
    chosen = imagenet.load("imagenet2012", "train", prepared, lambda n: [n - 1, 0, 7], preprocessing=preprocessing)
    np.testing.assert_array_equal(chosen.images, train.images[[14, 0, 7]])
    np.testing.assert_array_equal(chosen.labels, train.labels[[14, 0, 7]])
    part = train[4:10][np.array([2, 0])]
    assert train[:0].digest() != train[:1].digest()
    assert (len(part), part.images.shape) == (2, (2, SIZE, SIZE, 3))
    np.testing.assert_array_equal(part.images, train.images[[6, 4]])
    # A picture's crop is its own, whatever the part that it is in.
    np.testing.assert_array_equal(rows(part, [[0, 1]], (1, 2))[0], rows(train, [[6, 4]], (1, 2))[0])


@pytest.mark.parametrize("seed", [pytest.param(None, marks=pytest.mark.slow), (3, 1)])
def test_a_stream_is_the_same_in_processes_and_from_any_row_on(train, seed):
    indices = np.random.default_rng(0).permutation(15)[:14].reshape(7, 2)
    pixels, labels = rows(train, indices, seed)
    np.testing.assert_array_equal(labels, train.labels[indices])
    if seed is None:
        np.testing.assert_array_equal(pixels, train.images[indices])
    for k in (1, 5):
        np.testing.assert_array_equal(rows(train, indices[k:], seed)[0], pixels[k:])
    in_processes = replace(train, workers=2)
    streamed = list(in_processes.stream(indices, seed))
    assert all(type(array) is np.ndarray for row in streamed for array in row)
    np.testing.assert_array_equal([row[0] for row in streamed], pixels)
    np.testing.assert_array_equal([row[1] for row in streamed], labels)


def test_crops_depend_on_the_numbers_and_the_place_alone(train):
    indices = np.arange(14)
    pixels = rows(train, indices.reshape(2, 7), (5, 0))[0].reshape(14, SIZE, SIZE, 3)
    in_other_rows = rows(train, indices[::-1].reshape(7, 2), (5, 0))[0].reshape(14, SIZE, SIZE, 3)
    np.testing.assert_array_equal(in_other_rows[::-1], pixels)
    for other in ((5, 1), (6, 0), (5,)):
        differs = (rows(train, indices.reshape(2, 7), other)[0].reshape(pixels.shape) != pixels).any(axis=(1, 2, 3))
        assert differs.sum() >= 12, other  # the smallest pictures have few crops
    for place, (picture, _) in zip(indices, originals(train), strict=False):
        box = crops.random_box(*picture.size, np.random.default_rng((5, 0, place)))
        wanted = picture.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pixels[place], wanted)


def test_the_law_of_random_crops():
    """Area, ratio and place of 4,000 crops of a square picture, within 5 sigma of torchvision's law."""
    n, side = 4_000, 2_000
    left, top, right, bottom = np.array(
        [crops.random_box(side, side, np.random.default_rng((0, i))) for i in range(n)]
    ).T
    w, h = right - left, bottom - top
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= side
    area, ratio = w * h / side**2, np.log(w / h)
    assert 0.0795 <= area.min() < 0.09
    assert 0.9 < area.max() <= 1
    np.testing.assert_allclose([ratio.min(), ratio.max()], [-math.log(4 / 3), math.log(4 / 3)], atol=0.01)
    # What is drawn and fits: scale uniform, log of the ratio uniform, both sides within the picture.
    s, r = np.meshgrid(np.linspace(0.08, 1, 1_001), np.linspace(-math.log(4 / 3), math.log(4 / 3), 1_001))
    fits = s * np.exp(np.abs(r)) <= 1
    for drawn, mean, std in (
        (area, s[fits].mean(), s[fits].std()),
        (ratio, 0, r[fits].std()),
        (np.abs(ratio), np.abs(r[fits]).mean(), np.abs(r[fits]).std()),
        *((a / (side - b + 1), 0.5, 1 / math.sqrt(12)) for a, b in ((left, w), (top, h))),
    ):
        assert abs(drawn.mean() - mean) < 5 * std / math.sqrt(n) + 1e-3


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 30), (480, 0, 520, 30)), ((40, 900), (0, 423, 40, 476)), ((1, 1), (0, 0, 1, 1))]
)
def test_pictures_that_no_crop_fits(size, box):
    # So long that no part with 8 % of the area is of any ratio drawn.
    assert crops.random_box(*size, np.random.default_rng(0)) == box


def test_images_in_memory_offer_the_same(train):
    images, indices = Images(train.images, train.labels), [[3, 1], [0, 14]]
    for mine, theirs in zip(images.stream(indices), train.stream(indices), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named(preprocessing, workers):
    whole, cut = ({"image": pictures.jpeg(0)[:n], "label": 0, "file_name": b"n01_7.JPEG"} for n in (None, 900))
    stored = imagenet.Stored([whole, cut], np.arange(2), preprocessing, workers)
    stream = stored.stream([[0], [1]])
    next(stream)
    with pytest.raises(InputError, match=r"n01_7\.JPEG \(record 1 of .*\) can't be decoded: OSError: image file is"):
        next(stream)


def test_a_stream_refuses_what_it_can_not_read_at_once(train):
    with pytest.raises(IndexError, match="15"):
        train.stream([[15]])
    for indices in (np.arange(3), [[0.5]]):
        with pytest.raises(ValueError, match=r"indices are whole numbers \[steps, B\]; got"):
            train.stream(indices)


def test_more_files_are_allowed_to_be_open(prepared, preprocessing):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        imagenet.load("imagenet2012", "train", data_dir=prepared, preprocessing=preprocessing)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 1024 + 4), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_files_may_be_open(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(InputError, match=r"the 50 files of the data are .* 100 open files: .*ulimit -Hn 1074"):
        imagenet._allow_open_files(50)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    imagenet._allow_open_files(10**6)


def test_a_damaged_record_is_named(prepared, preprocessing, tmp_path):
    shutil.copytree(prepared / "imagenet2012", tmp_path / "imagenet2012")
    shard = next(tmp_path.rglob("*-train.array_record-00000*"))
    damaged = bytearray(shard.read_bytes())
    damaged[200] ^= 1
    shard.write_bytes(damaged)
    stored = imagenet.load("imagenet2012", "train", data_dir=tmp_path, preprocessing=preprocessing)
    with pytest.raises(InputError, match=r"record 0 of .*-train\.array_record-00000-of-00003 is damaged"):
        list(stored.stream([[5], [0]]))


def test_no_data_is_said_without_slow_imports(tmp_path):
    program = (
        "import sys; from tppjax.data import imagenet\n"
        f"try: imagenet.info('imagenet2012', data_dir={str(tmp_path)!r})\n"
        "finally: print({'grain', 'tensorflow_datasets'} & sys.modules.keys())"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"FileNotFoundError: no imagenet2012 in {tmp_path}" in answer.stderr
    assert f"prepare it with: python -m tppjax.data.jpegs --source SOURCE --data_dir {tmp_path}" in answer.stderr
    assert answer.stdout == "set()\n"


def test_data_that_is_not_whole(prepared, preprocessing, tmp_path):
    shutil.copytree(prepared / "imagenet2012", tmp_path / "imagenet2012")
    file = next(tmp_path.rglob("dataset_info.json"))
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "splits": described["splits"][:1]}))
    with pytest.raises(ValueError, match="has no split validation, only train"):
        imagenet.load("imagenet2012", "test", data_dir=tmp_path, preprocessing=preprocessing)
    next(tmp_path.rglob("*-train.array_record-00001*")).unlink()
    with pytest.raises(ValueError, match=r"train\.array_record-00001-of-00003 is missing; prepare it with: python -m"):
        imagenet.info("imagenet2012", data_dir=tmp_path)


def test_what_can_not_be_made_of_pictures(prepared, preprocessing):
    with pytest.raises(ValueError, match="interpolation is bilinear or bicubic, not 'nearest'"):
        imagenet.info("imagenet2012", data_dir=prepared, interpolation="nearest")
    with pytest.raises(ValueError, match=r"got input_shape \(224, 224, 3\) and resize 200"):
        imagenet.info("imagenet2012", data_dir=prepared, resize=200)
    for wrong in (replace(preprocessing, resize=None), replace(preprocessing, input_shape=(40, 8, 3))):
        with pytest.raises(ValueError, match="pictures are resized to the shorter side"):
            imagenet.load("imagenet2012", "train", data_dir=prepared, preprocessing=wrong)


def test_grain_that_is_not_installed(prepared, preprocessing, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ValueError, match=r"grain is not installed: pip install 'tppjax\[imagenet\]'"):
        imagenet.load("imagenet2012", "train", data_dir=prepared, preprocessing=preprocessing)
