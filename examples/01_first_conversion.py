# %% [markdown]
# # First conversion
#
# This tutorial trains a small network on handwritten digits, turns it into a spiking network, and looks at
# what the spikes cost in accuracy. It takes less than a minute on a laptop. You need the package with its
# extras: `pip install -e '.[all]'` in a clone of the repository.
#
# ## Train an ANN
#
# The digits come with scikit-learn, so nothing has to be downloaded. The network is a small VGG, and its
# activation is QCFS, a ReLU that is clipped at a trained height and has only `L` levels. Networks trained
# this way convert well, because a spiking neuron also has only a few levels: it fires 0, 1, 2, ... or `T`
# times.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import convert
from configs.digits import Digits
from tppjax import ann, data
from train import digits

network = digits.main(Digits(out=Path("runs/first"), epochs=10, overwrite=True))

test = data.load("digits", "test")
print(f"accuracy of the ANN on {len(test)} test images: {ann.accuracy(network, test):.2f} %")

# %% [markdown]
# ## Convert it
#
# `convert.to_snn` is a pure function: it takes the trained network, a number of time steps `T` and a mode,
# which names the kind of neuron, and returns a spiking network with the same weights. `apply` presents the
# images for `T` steps and returns the mean output, here ten logits for each image. The neurons of mode `tpp`
# fire at random, so they need a key.

# %%
import jax

snn = convert.to_snn(network, T=8, mode="tpp")
logits = snn.apply(test.images, key=jax.random.key(0))
print(snn)
print(f"accuracy: {(logits.argmax(-1) == test.labels).mean():.2%}")

# %% [markdown]
# ## Look at the spikes
#
# `trace` keeps every step. Below are the spikes of the first 60 neurons of one layer for one image.
# `baseline` neurons integrate and fire at once. `tpp` neurons, which the paper proposes, take in their input
# for `T` steps before they fire for `T` steps. Their spikes come at random times, in a number that follows
# from the sum of the input.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for axis, mode in zip(axes, ("baseline", "tpp"), strict=True):
    trace = convert.to_snn(network, T=16, mode=mode).trace(test.images[:1], key=jax.random.key(0))
    site = list(trace.spikes)[1]
    steps, neurons = np.nonzero(trace.spikes[site].reshape(16, -1)[:, :60])
    axis.scatter(steps, neurons, s=8, marker="|", linewidths=2)
    axis.set(title=f"{mode}, site {site}", xlabel="time step")
axes[0].set_ylabel("neuron")

# %% [markdown]
# ## Accuracy against the number of steps
#
# More steps give finer rates and better accuracy, and cost time on hardware. `rounded` is a deterministic
# two-phase neuron: its number of spikes is its accumulated input in thresholds, rounded.

# %%
steps = (1, 2, 4, 8, 16)
plt.figure(figsize=(6, 4), layout="constrained")
for mode in ("baseline", "tpp", "rounded"):
    accuracies = []
    for T in steps:
        logits = convert.to_snn(network, T=T, mode=mode).apply(test.images, key=jax.random.key(0))
        accuracies.append(100 * float((logits.argmax(-1) == test.labels).mean()))
    print(f"{mode:10}" + "".join(f"{accuracy:8.2f}" for accuracy in accuracies))
    plt.plot(steps, accuracies, marker="o", label=mode)
plt.axhline(ann.accuracy(network, test), color="black", linestyle="--", label="ANN")
plt.xscale("log", base=2)
plt.xticks(steps, steps)
plt.xlabel("time steps T")
plt.ylabel("test accuracy (%)")
plt.legend()

# %% [markdown]
# ## Where accuracy is lost
#
# `convert.report` compares every site of the spiking network with the ANN and says which one to mend first.

# %%
print(convert.report(convert.to_snn(network, T=2, mode="tpp"), test.images[:200]))

# %% [markdown]
# ## Save it
#
# A saved network is a folder with `graph.json` and `weights.safetensors`. It holds no code, and the same key
# draws the same spikes wherever it is loaded.

# %%
snn.save("runs/first-spiking")
same = convert.load("runs/first-spiking")
key = jax.random.key(0)
print("equal outputs:", bool((same.apply(test.images[:8], key) == snn.apply(test.images[:8], key)).all()))

# %% [markdown]
# All of this is also a command, which keeps its results and draws the plot for any network and data set:
# `python -m convert.evaluate --ann runs/first --modes baseline tpp rounded --T 1 2 4 8`. Next: [convert your
# own PyTorch network](02_your_pytorch_network.py).
