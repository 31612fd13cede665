"""What every test starts from: strict numerics, checked annotations, and one small network trained once."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Tests compile much and run little: little is optimised, which changes no draw, and what one process has compiled is
# not compiled again by the others. jax reads this when it starts, as do the commands that tests run. Slow tests run
# more, and compare trainings on one and several devices, which round alike only in optimised code.
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level={2 if 'slow' in ' '.join(sys.argv) else 0}")
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tppjax-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import pytest

# Every annotation of these packages is checked at each call; an int may stand for a float. The pytest plugin of
# jaxtyping can't do this from pyproject.toml, since the processes of pytest-xdist would not see its option.
jaxtyping.install_import_hook(
    ["tppjax", "convert"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)
_raises = pytest.raises


@contextlib.contextmanager
def raises(*args, **kwargs):
    """`pytest.raises`; annotations are not checked within, so that wrong arguments reach the library's own checks."""
    with _raises(*args, **kwargs) as info:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            yield info
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)


pytest.raises = raises

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure(config):
    """Removes what was compiled, after all processes are done."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Folder of a QCFS network (L = 8) trained on the digits for a few epochs."""
    from configs.digits import Digits
    from train import digits

    out = tmp_path_factory.mktemp("runs") / "digits"
    digits.main(Digits(out=out, epochs=4, L=8))
    return out


@pytest.fixture(scope="session")
def digits_ann(digits_run):
    """The network of `digits_run`."""
    from tppjax import ann

    return ann.load(digits_run)


@pytest.fixture(scope="session")
def digits_relu(tmp_path_factory):
    """Folder of a network with plain ReLU, trained on the digits for a few epochs."""
    from configs.digits import Digits
    from train import digits

    out = tmp_path_factory.mktemp("runs") / "relu"
    digits.main(Digits(out=out, act="relu", epochs=4))
    return out


@pytest.fixture(scope="session")
def relu_ann(digits_relu):
    """The network of `digits_relu`."""
    from tppjax import ann

    return ann.load(digits_relu)


@pytest.fixture(scope="session")
def digits_train():
    """300 training images of the digits, without their labels."""
    from tppjax import data

    return data.load("digits", "train").images[:300]


@pytest.fixture(scope="session")
def digits_test():
    """All 360 test images of the digits."""
    from tppjax import data

    return data.load("digits", "test")


@pytest.fixture(scope="session")
def real_cifar10():
    """Folder of the real CIFAR-10, where there is one."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not (Path(folder) / "cifar10").is_dir():
        pytest.skip("needs the real CIFAR-10: set TFDS_DATA_DIR to a folder with TFDS's cifar10")
    return folder


@pytest.fixture(scope="session")
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch", reason="needs PyTorch: make test-torch")


@pytest.fixture(scope="session")
def real_weights(torch):
    """File of a published ResNet-20, where there is one."""
    file = Path(os.environ.get("TPPJAX_WEIGHTS_DIR", "")) / "resnet20-12fca82f.th"
    if not os.environ.get("TPPJAX_WEIGHTS_DIR") or not file.is_file():
        pytest.skip("needs akamaster's resnet20-12fca82f.th: set TPPJAX_WEIGHTS_DIR to its folder")
    return file
