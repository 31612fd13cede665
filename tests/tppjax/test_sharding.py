"""Seeds over devices, and batches over examples: the same results as one by one."""

import jax
import numpy as np
import pytest

from tppjax import sharding
from tppjax.batching import map_examples
from tppjax.data import Images


def noisy(x, key):
    return x + jax.random.normal(key, x.shape)


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_sweep_is_one_run_for_each_key(seeds):
    keys = jax.random.split(jax.random.key(0), seeds)
    x = np.arange(5.0, dtype=np.float32)
    np.testing.assert_allclose(sharding.sweep(noisy, keys, x), [noisy(x, k) for k in keys], rtol=1e-6)


def test_split_refuses_what_does_not_divide():
    class Three:
        shape = {sharding.AXIS: 3}  # noqa: RUF012

    with pytest.raises(ValueError, match="4 do not divide evenly over 3 devices"):
        sharding.split(np.zeros(4), Three())


@pytest.mark.parametrize(("n", "batch_size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_map_examples_sees_every_example_once(n, batch_size):
    shapes = set()

    def double(x, y, index):
        shapes.add(len(x))
        return {"x": 2 * x, "y": y, "index": index}

    numbers = np.arange(n).reshape(n, 1, 1, 1)
    result = map_examples(double, Images(numbers, np.arange(n) ** 2), batch_size)
    np.testing.assert_array_equal(result["x"], 2 * numbers)
    np.testing.assert_array_equal(result["y"], np.arange(n) ** 2)
    np.testing.assert_array_equal(result["index"], np.arange(n))
    assert len(shapes) == 1
