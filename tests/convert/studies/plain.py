"""A small convolutional network and its spiking versions in plain NumPy, float64: nothing of JAX, nothing of ours."""

import numpy as np

SITES = ("conv1_1", "conv2_1")


def convolve(x, kernel):
    """3 x 3, padded by zeros: `[..., H, W, C]`."""
    h, w = x.shape[-3:-1]
    x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    return sum(x[..., i : i + h, j : j + w, :] @ kernel[i, j] for i in range(3) for j in range(3))


def pool(x):
    """Mean over 2 x 2 pixels."""
    *lead, h, w, c = x.shape
    return x.reshape(*lead, h // 2, 2, w // 2, 2, c).mean(axis=(-4, -2))


class Network:
    """Two convolutions with a site each, pools between, and a dense layer, as `vgg_small` has them."""

    def __init__(self, variables):
        p = self.params = {k: {n: np.float64(a) for n, a in v.items()} for k, v in variables["params"].items()}
        self.layers = [
            lambda x: convolve(x, p["conv1_1"]["kernel"]) + p["conv1_1"]["bias"],
            lambda s: convolve(pool(s), p["conv2_1"]["kernel"]) + p["conv2_1"]["bias"],
        ]
        self.thetas = [p[act]["theta"] for act in ("act1_1", "act2_1")]

    def logits(self, s):
        """Of the last site's rates or spikes times theta."""
        s = pool(s)
        return s.reshape(*s.shape[:-3], -1) @ self.params["head"]["kernel"] + self.params["head"]["bias"]

    def run(self, x, T, sent=lambda i, spikes: spikes):
        """Integrate and fire at every site, from half a threshold; `sent(i, spikes)` is what site `i` sends on.

        Returns `(logits, currents, potentials, spikes that were sent)`, time leading, lists over the sites.
        """
        current, found = np.broadcast_to(x, (T, *x.shape)), ([], [], [])
        for i, (layer, theta) in enumerate(zip(self.layers, self.thetas, strict=True)):
            current = layer(current)
            spikes, potentials = integrate_and_fire(current, theta)
            spikes = sent(i, spikes)
            for kept, value in zip(found, (current, potentials, spikes), strict=True):
                kept.append(value)
            current = theta * spikes
        return self.logits(current), *found


def integrate_and_fire(current, theta):
    """Spikes, and potentials before firing: `[T, ...]`."""
    v, spikes, potentials = np.full(current[0].shape, theta / 2), [], []
    for x in current:
        v = v + x
        potentials.append(v)
        spikes.append((v >= theta).astype(float))
        v = v - theta * spikes[-1]
    return np.array(spikes), np.array(potentials)
