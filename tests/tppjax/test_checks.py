"""What is checked where it enters is checked once, and without more work than it takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tppjax
from tppjax import ann, calibration, checks, models
from tppjax.activations import QCFS, ReLU
from tppjax.errors import InputError, brief


class OnDisk:
    """Images that count how often they are decoded."""

    decoded = 0

    @property
    def images(self):
        OnDisk.decoded += 1
        return np.zeros((2, 4, 4, 1), np.uint8)

    @property
    def labels(self):
        raise AssertionError("nobody needs the labels")

    def stream(self, places, draw=None):
        raise AssertionError


def test_images_on_disk_are_decoded_once():
    assert checks.as_images(OnDisk()).shape == (2, 4, 4, 1)
    assert OnDisk.decoded == 1
    model = models.create("vgg_small", 10, ReLU())
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    preprocessing = tppjax.data.Preprocessing("mine", (4, 4, 1), (0.5,), (1.0,), tuple("0123456789"))
    calibration.calibrate(ann.Ann(variables, model, preprocessing), OnDisk(), "max")
    assert OnDisk.decoded == 2


def test_host_images_are_scanned_once(monkeypatch):
    scanned, isfinite = [], np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda x: scanned.append(np.shape(x)) or isfinite(x))
    model = models.create("vgg_small", 10, QCFS())
    made = jax.eval_shape(partial(model.init, jax.random.key(0)), jnp.zeros((1, 8, 8, 1)))
    ann.Ann(made, model, tppjax.data.info("digits")).frames(np.zeros((2, 8, 8, 1), np.float32))
    assert scanned.count((2, 8, 8, 1)) == 1


def test_leaves():
    checks.check_leaf("params/act1/theta", np.ones(2))
    with pytest.raises(InputError, match=r"params/act1/theta has a threshold that is not positive, -1\.0"):
        checks.check_leaf("params/act1/theta", np.array([1.0, -1.0]))
    with pytest.raises(InputError, match="batch_stats/norm/var has a negative variance"):
        checks.check_leaf("batch_stats/norm/var", np.array(-1.0))


@pytest.mark.parametrize(
    ("e", "line"),
    [(KeyError(), "KeyError"), (ValueError("\none \ntwo"), "ValueError: one "), (OSError("x" * 300), "OSError: xxx")],
)
def test_errors_of_others_in_one_line(e, line):
    assert brief(e).startswith(line)
    assert len(brief(e)) <= 200
    assert "two" not in brief(e)


def test_modules_by_name():
    assert tppjax.errors.InputError is InputError
    assert all(hasattr(tppjax, name) for name in dir(tppjax) if not name.startswith("_"))
    assert {"errors", "tracing", "checkpoint"} <= set(dir(tppjax))
