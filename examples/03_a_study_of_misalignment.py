# %% [markdown]
# # A study of misalignment
#
# A converted network can lose accuracy although each neuron fires nearly as often as it should, because its
# spikes arrive in an unfortunate order. The paper calls this temporal misalignment, and finds that shuffling
# spikes in time raises the accuracy. This tutorial shows the effect on a small network and then measures it
# layer by layer.
#
# ## A network with ReLU
#
# The effect is large where a network was not trained for spikes. This one has plain ReLU, trained on the
# digits.

# %%
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import convert
from configs.digits import Digits
from tppjax import ann, data
from train import digits

network = digits.main(Digits(out=Path("runs/relu"), act="relu", epochs=10, overwrite=True))
train, test = data.load("digits", "train"), data.load("digits", "test")

# %% [markdown]
# ## The same spikes in another order
#
# Mode `shuffle` computes the spikes of `baseline` in every layer, and sends them on in random order. Both
# modes get the same thresholds, so the order is all that differs.

# %%
T = 4
ready = convert.calibrate(network, train.images[:500], T=T, mode="baseline")
baseline = convert.to_snn(ready, T=T, mode="baseline")
shuffle = convert.to_snn(ready, T=T, mode="shuffle")


def accuracy(snn, seed=0):
    """Accuracy on the test images in percent."""
    return 100 * float((snn.apply(test.images, key=jax.random.key(seed)).argmax(-1) == test.labels).mean())


shuffled = [accuracy(shuffle, seed) for seed in range(5)]
print(f"ANN       {ann.accuracy(network, test):.2f} %")
print(f"baseline  {accuracy(baseline):.2f} %")
print(f"shuffle   {np.mean(shuffled):.2f} %, standard deviation {np.std(shuffled, ddof=1):.2f} over 5 seeds")

# %% [markdown]
# ## When spikes come
#
# The share of neurons that fire at each step shows what the order has to do with it. A layer near the output
# waits for the layers before it to build up potential, so its spikes come late. Shuffled spikes come evenly.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for axis, (name, snn) in zip(axes, {"baseline": baseline, "shuffle": shuffle}.items(), strict=True):
    spikes = snn.trace(test.images, key=jax.random.key(0)).spikes
    for site, of_site in spikes.items():
        axis.plot(range(1, T + 1), 100 * np.asarray(of_site).reshape(T, -1).mean(axis=1), marker="o", label=site)
    axis.set(title=name, xlabel="time step", xticks=range(1, T + 1))
axes[0].set_ylabel("neurons that fire (%)")
axes[1].legend()

# %% [markdown]
# ## The study
#
# The paper's explanation is that uneven input makes an integrate-and-fire neuron fire at the wrong times, and
# a spike once fired can't be taken back. The study `misalignment` counts such spikes in every layer. It is
# the command `python -m convert.studies misalignment`, called here from Python.

# %%
import csv

from convert.studies import misalignment

options = {"calibrate": "mse", "T": (4,), "modes": ("baseline", "shuffle"), "seeds": 2, "limit": 200}
misalignment.main(misalignment.Misalignment(ann=Path("runs/relu"), **options))

# %% [markdown]
# Beside the text, the study leaves a plot and its records as CSV. Here are the wrong spikes of each layer.

# %%
table = Path("runs/relu/studies/misalignment/misalignment.csv").read_text()
records = list(csv.DictReader(table.splitlines()))
plt.figure(figsize=(6, 3.4), layout="constrained")
for mode in ("baseline", "shuffle"):
    of_mode = [r for r in records if r["mode"] == mode]
    wrong = [float(r["superfluous"]) + float(r["missing"]) for r in of_mode]
    plt.plot([r["site"] for r in of_mode], wrong, marker="o", label=mode)
plt.ylabel("wrong spikes (% of steps)")
plt.legend()

# %% [markdown]
# Two-phase neurons, such as `tpp`, read the sum of their input alone, so the order in which it comes can't
# harm them: [why time can be folded away](../docs/folding.md). What this study and the others found on
# CIFAR-10, and where the paper's explanation holds only in part, is on [the page about the
# paper](../docs/paper.md).
