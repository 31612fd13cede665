# %% [markdown]
# # A neuron of your own
#
# [Your own neuron](../docs/your_own_neuron.md) explains what a neuron has to have. This tutorial puts one to
# use: a refractory neuron, which can't fire for some steps after a spike, as neurons in nature and in some
# hardware can't. What does that cost a converted network, and what can thresholds do about it?
#
# ## The neuron
#
# It fires as its input comes, so it is a `OnePhase` neuron. Its state has two parts: the potential, in
# thresholds, and the steps that it still has to rest. `potential` says which of them traces show.

# %%
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt

from tppjax.neurons import OnePhase


@dataclass(frozen=True)
class Refractory(OnePhase):
    """Integrate-and-fire with soft reset, and `rest` steps without a spike after each spike."""

    rest: int = 1

    def init(self, shape, T):
        """Half a threshold, and no rest to take."""
        return jnp.full(shape, 0.5), jnp.zeros(shape)

    def step(self, state, x, t, T, key):
        """Fires where the potential reaches 1 and the neuron has rested."""
        u, resting = state
        u = u + x
        spikes = ((u >= 1) & (resting == 0)).astype(u.dtype)
        return (u - spikes, jnp.where(spikes > 0, self.rest, jnp.maximum(resting - 1, 0))), spikes

    def potential(self, state):
        """The potential."""
        return state[0]


# %% [markdown]
# ## Its answer to constant input
#
# `count` gives the number of spikes for an input that is spread evenly over `T` steps. With a rest of one
# step the neuron saturates at half of what `baseline` reaches, with three steps at a quarter.

# %%
from tppjax.neurons import parse

T = 16
u = jnp.linspace(-2, 18, 400)
plt.figure(figsize=(6, 4), layout="constrained")
for name, neuron in {"baseline": parse("baseline"), "rest = 1": Refractory(), "rest = 3": Refractory(rest=3)}.items():
    plt.plot(u, neuron.count(u, T, None), label=name)
plt.xlabel("input over all steps, in thresholds")
plt.ylabel(f"spikes in T = {T} steps")
plt.legend()

# %% [markdown]
# ## In a network
#
# Wherever a mode is a name, it can be the neuron itself. Thresholds chosen for `baseline` don't suit the new
# neuron, because large activations would need more spikes than it can fire. Calibrated for the neuron itself,
# thresholds are higher: nothing has to be added for that, since its error is found by simulation.

# %%
import convert
from configs.digits import Digits
from tppjax import data
from train import digits

network = digits.main(Digits(out=Path("runs/relu"), act="relu", epochs=10, overwrite=True))
train, test = data.load("digits", "train"), data.load("digits", "test")


def accuracy(snn):
    """Accuracy on the test images in percent."""
    return 100 * float((snn.apply(test.images).argmax(-1) == test.labels).mean())


for_baseline = convert.calibrate(network, train.images[:500], T=T, mode="baseline")
for_itself = convert.calibrate(network, train.images[:500], T=T, mode=Refractory())
print(f"baseline:                                   {accuracy(convert.to_snn(for_baseline, T, 'baseline')):.2f} %")
print(f"refractory, with the baseline's thresholds: {accuracy(convert.to_snn(for_baseline, T, Refractory())):.2f} %")
print(f"refractory, with thresholds of its own:     {accuracy(convert.to_snn(for_itself, T, Refractory())):.2f} %")

# %% [markdown]
# The report shows where accuracy is lost. Hardly anything is clipped, but with higher thresholds and at most
# half as many spikes, the rates are coarse. The column `own error` of each site shows this.

# %%
snn = convert.to_snn(for_itself, T=T, mode=Refractory())
print(convert.report(snn, test.images[:200]))

# %% [markdown]
# ## In some layers only
#
# A mode can also be given for each site. Here only one layer rests at a time.

# %%
for site in for_itself.sites:
    modes = {name: Refractory() if name == site else "baseline" for name in for_itself.sites}
    print(f"{site:10} {accuracy(convert.to_snn(for_itself, T, modes)):.2f} %")

# %% [markdown]
# Saved in a file, say `my_neurons.py`, the neuron is a mode of all commands: `python -m convert.evaluate
# --ann runs/relu --calibrate mse --modes baseline "my_neurons:Refractory(rest=3)"`.
