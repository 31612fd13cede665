# %% [markdown]
# # Your PyTorch network
#
# This tutorial takes a network that was written and trained in PyTorch and makes it spiking, without changing
# its code. It needs PyTorch besides: `pip install -e '.[all,torch]'`.
#
# ## A network
#
# Any `torch.nn.Module` will do, as long as it computes ReLU or a clip of it and is linear in between. This
# one has batch norm, average pooling and a shortcut.

# %%
import numpy as np
import torch
from torch import nn

from tppjax import data


class Small(nn.Module):
    """A convolutional network with one shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        """Logits `[B, 10]` of images `[B, 1, 8, 8]`."""
        x = self.stem(x)
        return self.head(torch.relu(x + self.block(x)))


# %% [markdown]
# ## Train it
#
# In real use you have trained it already. Here it learns the 8 x 8 digits in a few seconds. PyTorch's images
# have their channels first, and that stays so after the conversion.


# %%
def prepared(images):
    """Floats `[N, 1, 8, 8]` in [0, 1] from pixels `[N, 8, 8, 1]`."""
    return np.moveaxis(images, -1, 1).astype(np.float32) / 255


train, test = data.load("digits", "train"), data.load("digits", "test")
x, y = torch.from_numpy(prepared(train.images)), torch.from_numpy(train.labels).long()
x_test = prepared(test.images)

torch.manual_seed(0)
module = Small()
optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
for epoch in range(8):
    for batch in torch.randperm(len(x)).split(64):
        loss = nn.functional.cross_entropy(module(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

module.eval()
with torch.no_grad():
    predicted = module(torch.from_numpy(x_test)).argmax(-1).numpy()
print(f"accuracy in PyTorch: {(predicted == test.labels).mean():.2%}")

# %% [markdown]
# ## Bring it over
#
# `convert.from_torch` traces the module for one example into a graph, and compares the graph's output with
# PyTorch's. The table lists the sites, which are the places where spiking neurons will stand. Had the network
# computed something that can't be made spiking, such as layer norm, the message would name each place.

# %%
import convert

network = convert.from_torch(module, torch.from_numpy(x_test[:1]))
print(network)

# %% [markdown]
# ## Choose thresholds and convert
#
# A ReLU has no upper end, so the neurons' thresholds are chosen from the activations on some training images.
# The best threshold depends on the neuron and on the number of steps, so `calibrate` is told both.

# %%
import jax
import matplotlib.pyplot as plt

images = prepared(train.images[:500])
steps = (2, 4, 8)
plt.figure(figsize=(6, 4), layout="constrained")
for mode in ("baseline", "tpp"):
    accuracies = []
    for T in steps:
        snn = convert.to_snn(convert.calibrate(network, images, T=T, mode=mode), T=T, mode=mode)
        logits = snn.apply(x_test, key=jax.random.key(0))
        accuracies.append(100 * float((logits.argmax(-1) == test.labels).mean()))
    print(f"{mode:10}" + "".join(f"{accuracy:8.2f}" for accuracy in accuracies))
    plt.plot(steps, accuracies, marker="o", label=mode)
plt.axhline(100 * (predicted == test.labels).mean(), color="black", linestyle="--", label="ANN")
plt.xscale("log", base=2)
plt.xticks(steps, steps)
plt.xlabel("time steps T")
plt.ylabel("test accuracy (%)")
plt.legend()

# %% [markdown]
# Where a harder task or a deeper network loses more, `convert.report` says in which layer, and
# `convert.correct` brings each layer's input in the SNN back to that of the ANN: see [convert your
# network](../docs/convert_your_network.md).
#
# ## Keep it
#
# The saved folder needs neither PyTorch nor the module's code. A network that is saved with a `preprocessing`
# also works with all commands: see [convert your network](../docs/convert_your_network.md). [To
# hardware](../docs/hardware.md) shows how the network becomes a NIR file.

# %%
ready = convert.calibrate(network, images, T=8, mode="rounded")
snn = convert.to_snn(ready, T=8, mode="rounded")
snn.save("runs/from-torch")
print(convert.load("runs/from-torch"))
