"""Networks saved by another Python and JAX: `python -m tests.convert.elsewhere` writes those of the one that runs it.

Each has its draws beside it. Weights and images are short fractions, so that no order of summation matters.
"""

import platform
from pathlib import Path

import jax
import numpy as np

import convert
from tests.convert.networks import cnn, images

FOLDER = Path(__file__).parent / "saved"
MODES = {"tpp": "tpp", "shuffle": "shuffle", "unbiased": "unbiased", "mixed": {"conv1_1": "tpp", "conv2_1": "burst"}}


def draws(snn: convert.Snn) -> dict[str, np.ndarray]:
    """What it returns and how often each neuron fires."""
    output, counts = snn.activity(images(20, (4, 4, 1)), jax.random.key(5))
    return {"output": np.asarray(output)} | {site.replace("/", "|"): np.asarray(n) for site, n in counts.items()}


def main() -> None:
    """Writes the folders of this Python and JAX."""
    for name, mode in MODES.items():
        folder = FOLDER / f"python{platform.python_version()}-jax{jax.__version__}" / name
        snn = convert.to_snn(cnn(), 8, mode)
        snn.save(folder / "snn")
        np.savez_compressed(folder / "draws.npz", **draws(snn))


if __name__ == "__main__":
    main()
