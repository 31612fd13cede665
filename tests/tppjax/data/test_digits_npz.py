"""The embedded digits, and images of one's own."""

import numpy as np
import pytest

from tppjax import data


def test_digits_are_split_once_and_for_all():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    np.testing.assert_array_equal(np.bincount(test.labels), 36)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    assert not {i.tobytes() for i in test.images} & {i.tobytes() for i in train.images}
    info = data.info("digits")
    np.testing.assert_allclose(train.images.mean() / 255, info.mean[0], atol=1e-4)
    np.testing.assert_allclose(train.images.std() / 255, info.std[0], atol=1e-4)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8),
        "y_test": np.array([0, 2]),
    }


def test_npz(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    test = data.load("npz", "test", tmp_path / "a.npz")
    np.testing.assert_array_equal(test.images, arrays["x_test"])
    np.testing.assert_array_equal(test.labels, [0, 2])
    info = data.info("npz", tmp_path / "a.npz")
    assert (info.input_shape, info.class_names) == ((4, 5, 3), ("0", "1", "2"))
    np.testing.assert_allclose(info.mean, arrays["x_train"].mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(info.std, arrays["x_train"].std((0, 1, 2)) / 255)


def test_npz_grey_images_get_a_channel(arrays, tmp_path):
    arrays["x_train"], arrays["x_test"] = arrays["x_train"][..., 0], arrays["x_test"][..., 0]
    np.savez(tmp_path / "a.npz", **arrays)
    assert data.load("npz", "train", tmp_path / "a.npz").images.shape == (6, 4, 5, 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x_train", np.zeros((6, 4, 5, 3)), "x_train is float64; save pixels as uint8"),
        ("x_test", np.zeros((2, 4), np.uint8), r"x_test has shape \(2, 4\); images are \[N, H, W, C\]"),
        ("x_test", np.zeros((0, 4, 5, 3), np.uint8), "at least one image"),
        ("x_test", np.zeros((2, 5, 5, 3), np.uint8), r"x_train has images of \(4, 5, 3\), x_test of \(5, 5, 3\)"),
        ("y_train", np.zeros(6), r"y_train is float64 of shape \(6,\); labels are whole numbers"),
        ("y_train", np.arange(5), "x_train has 6 images but y_train 5 labels"),
        ("y_train", np.array([0, 1, 2, -1, 0, 1]), "y_train has the label -1; labels count from 0"),
        ("y_test", np.array([0, 3]), "y_test has the label 3, y_train none above 2"),
    ],
)
def test_npz_that_does_not_fit(arrays, tmp_path, name, value, message):
    np.savez(tmp_path / "a.npz", **{**arrays, name: value})
    with pytest.raises(ValueError, match=message):
        data.load("npz", "train", tmp_path / "a.npz")


def test_npz_that_is_none(arrays, tmp_path):
    with pytest.raises(ValueError, match=r"needs data_dir, the path of the \.npz file"):
        data.load("npz", "train")
    with pytest.raises(FileNotFoundError, match=r"no file .*make it with np\.savez"):
        data.load("npz", "train", tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"not an \.npz file of plain arrays"):
        data.load("npz", "train", tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", arrays["x_train"])
    with pytest.raises(ValueError, match=r"a\.npy is not an \.npz file"):
        data.load("npz", "train", tmp_path / "a.npy")
    np.savez_compressed(tmp_path / "d.npz", **{**arrays, "x_train": np.random.default_rng(0).bytes(4000)})
    damaged = bytearray((tmp_path / "d.npz").read_bytes())
    damaged[300:2000] = bytes(1700)
    (tmp_path / "d.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"d\.npz is not an \.npz file"):
        data.load("npz", "train", tmp_path / "d.npz")
    np.savez(tmp_path / "b.npz", x_train=arrays["x_train"])
    with pytest.raises(ValueError, match="must hold x_train, y_train, x_test, y_test; it holds x_train"):
        data.load("npz", "train", tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **{**arrays, "y_test": np.array([{}, {}], object)})
    with pytest.raises(ValueError, match="of plain arrays"):
        data.load("npz", "train", tmp_path / "c.npz")


def test_only_what_is_chosen_is_read(tmp_path):
    arrays = {f"x_{split}": np.arange(24, dtype=np.uint8).reshape(6, 2, 2) for split in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, **{f"y_{split}": np.arange(6) for split in ("train", "test")})
    for name, file in (("digits", None), ("npz", tmp_path / "a.npz")):
        everything, chosen = data.load(name, "train", file), data.load(name, "train", file, lambda n: np.array([4, 1]))
        np.testing.assert_array_equal(chosen.images, everything.images[[4, 1]])
        np.testing.assert_array_equal(chosen.labels, everything.labels[[4, 1]])
