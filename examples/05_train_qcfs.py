# %% [markdown]
# # Training with QCFS
#
# A network with plain ReLU can be converted, but one that is trained for it needs fewer steps. QCFS (Bu et
# al., ICLR 2022) is an activation with `L` levels between 0 and a height that is trained, its lambda:
#
# $$
# \mathrm{QCFS}(x) = \frac{\lambda}{L}\,
# \mathrm{clip}\!\left(\left\lfloor \frac{x L}{\lambda} + \frac12 \right\rfloor, 0, L\right)
# $$
#
# The lambda of each layer becomes the threshold of its spiking neurons, and nothing has to be calibrated
# afterwards.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt

from tppjax.activations import qcfs

x = jnp.linspace(-0.5, 2.5, 600)
plt.figure(figsize=(6, 3.4), layout="constrained")
for L in (2, 4, 8):
    plt.plot(x, qcfs(x, 2.0, L), label=f"L = {L}")
plt.plot(x, jnp.maximum(x, 0), color="black", linestyle=":", label="ReLU")
plt.xlabel("x")
plt.ylabel("QCFS(x), lambda = 2")
plt.legend()

# %% [markdown]
# ## Where lambda begins
#
# The authors of QCFS begin with a lambda of 8 and train for 300 epochs, which bring it down. In a short
# training it stays near 8 while activations are much smaller, so the spiking neurons hardly fire at few
# steps. That is why, by default, each lambda begins where the layer's levels fit its activations on some
# training images. The next cell trains one network with each start, for 10 epochs. On the command line, the
# second is `python -m train.digits --act qcfs --L 8 --epochs 10 --out runs/qcfs`; `--theta_init 8` gives the
# first.

# %%
import json
from pathlib import Path

from configs.digits import Digits
from train import digits

networks = {
    "from 8": digits.main(Digits(out=Path("runs/from-8"), L=8, theta_init=8.0, epochs=10, overwrite=True)),
    "from the data": digits.main(Digits(out=Path("runs/from-data"), L=8, epochs=10, overwrite=True)),
}

# %% [markdown]
# `metrics.jsonl` in a run's folder has a line for each epoch. Its `theta` is the median lambda.

# %%
plt.figure(figsize=(6, 3.4), layout="constrained")
for name, folder in {"from 8": "runs/from-8", "from the data": "runs/from-data"}.items():
    epochs = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    plt.plot([e["epoch"] for e in epochs], [e["theta"] for e in epochs], marker="o", label=f"lambda begins {name}")
plt.ylim(0, None)
plt.xlabel("epoch")
plt.ylabel("median lambda")
plt.legend()

# %% [markdown]
# ## As spiking networks

# %%
import jax

import convert
from tppjax import ann, data

test = data.load("digits", "test")
steps = (1, 2, 4, 8, 16)
plt.figure(figsize=(6, 4), layout="constrained")
for name, network in networks.items():
    print(f"lambda begins {name}: ANN {ann.accuracy(network, test):.2f} %")
    for mode, marker in (("tpp", "D"), ("rounded", "^")):
        accuracies = []
        for T in steps:
            logits = convert.to_snn(network, T=T, mode=mode).apply(test.images, key=jax.random.key(0))
            accuracies.append(100 * float((logits.argmax(-1) == test.labels).mean()))
        print(f"  {mode:8}" + "".join(f"{accuracy:8.2f}" for accuracy in accuracies))
        plt.plot(steps, accuracies, marker=marker, label=f"{mode}, lambda {name}")
plt.xscale("log", base=2)
plt.xticks(steps, steps)
plt.xlabel("time steps T")
plt.ylabel("test accuracy (%)")
plt.legend()

# %% [markdown]
# With `rounded` neurons and T = L = 8 steps, the spiking network is the same function as the ANN, so their
# accuracies agree. [Train and evaluate](../docs/training.md) has the commands for CIFAR, ImageNet and event
# cameras, and [the paper and this library](../docs/paper.md) what was measured of lambda.
