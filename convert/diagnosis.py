"""A report on a conversion: what it did at each site, and where the spiking network departs from the ANN."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.execution import keyed_batches, summed
from convert.snn import Snn
from tppjax import prng
from tppjax.checks import check_examples
from tppjax.errors import InputError, check_count
from tppjax.graph import Site
from tppjax.network import Network
from tppjax.tracing import trace
from tppjax.types import Array, ImagesLike, Key

TINY = np.finfo(float).tiny


class Row(NamedTuple):
    """One site of a report. Shares are between 0 and 1; errors are relative, root of mean squares.

    Attributes:
      site: path of the site.
      layers: paths of the linear layers that feed the site.
      mode: the neurons of the site.
      neurons: number of neurons for one image.
      theta: smallest and largest threshold.
      dead: share of channels that never fire.
      clipped: share of the ANN's positive activations above the largest rate.
      quantisation: error that the neurons would make on the ANN's own input.
      departure: error of the rates against the ANN's activations, with the errors of all sites before.
    """

    site: str
    layers: tuple[str, ...]
    mode: str
    neurons: int
    theta: tuple[float, float]
    dead: float
    clipped: float
    quantisation: float
    departure: float


class Report(NamedTuple):
    """A comparison of an SNN with its ANN; `print` shows it.

    Attributes:
      rows: one row for each site, in the order in which the sites run.
      T: number of time steps.
      n: number of images that were compared.
      analog: paths of the layers after the last sites, whose outputs are not spikes.
      history: history of the converted network, one sentence for each step.
      departure: relative error of the outputs, root of mean squares; the mean if there are several outputs.
      agreement: share of outputs whose largest entry is the ANN's; None if no output has several entries.
    """

    rows: tuple[Row, ...]
    T: int
    n: int
    analog: tuple[str, ...]
    history: tuple[str, ...]
    departure: float
    agreement: float | None

    @property
    def worst(self) -> Row:
        """The site where the departure from the ANN grows most."""
        growth = np.diff([0.0, *(row.departure for row in self.rows)])
        return self.rows[int(np.argmax(growth))]

    def __str__(self) -> str:
        width = max(len(row.site) for row in self.rows)
        of_mode = max(9, *(len(row.mode) for row in self.rows))
        lines = [f"T={self.T}, {self.n} images; the output departs by {self.departure:.1%}"]
        if self.agreement is not None:
            lines[0] += f"; the SNN answers as the ANN does on {self.agreement:.1%}"
        lines += [f"  {step}" for step in self.history]
        lines.append(
            f"{'site':{width}} {'mode':>{of_mode}} {'neurons':>8} {'threshold':>17} {'dead':>6} {'clipped':>8} "
            f"{'own error':>10} {'departure':>10}"
        )
        for row in self.rows:
            low, high = row.theta
            theta = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            lines.append(
                f"{row.site:{width}} {row.mode:>{of_mode}} {row.neurons:>8} {theta:>17} {row.dead:>6.1%} "
                f"{row.clipped:>8.2%} {row.quantisation:>10.1%} {row.departure:>10.1%}"
            )
        lines.append(f"analog: the input, and {', '.join(self.analog) or 'no layer'} behind the last site")
        worst = self.worst
        lines.append(f"the departure grows most at {worst.site}, fed by {', '.join(worst.layers) or 'the input'}")
        return "\n".join(lines)


def report(
    snn: Snn, images: ImagesLike, ann: Any = None, key: Key | None = None, batch_size: int | None = None
) -> Report:
    """Compares `snn` with its ANN on `images`, site by site, to show where accuracy is lost.

    Args:
      snn: the spiking network.
      images: images `[N, ...]`; some hundred are enough.
      ann: the network to compare with, or anything that `trace` accepts. It is needed if the network was corrected
        before it was converted; by default it is the network that was converted.
      key: PRNG key of random modes; by default that of seed 0.
      batch_size: images in each call; by default up to 100, as many as suit the device's memory.

    Returns:
      The report.

    Raises:
      InputError: if there are no images, they don't fit the network, or `ann` is another network.
    """
    if not isinstance(snn, Snn) or snn.T is None:
        raise InputError(f"a report is on a network of to_snn, before for_any_T(); got {type(snn).__name__}")
    reference = snn.network if ann is None else trace(ann, images)
    images = check_examples(reference, images, "a report")
    if strangers := reference.sites.keys() ^ snn.network.sites.keys():
        raise InputError(f"ann is another network than the SNN: only one of them has {', '.join(sorted(strangers))}")
    check_count("batch_size", 1 if batch_size is None else batch_size)
    key = jax.random.key(0, impl=prng.HASH) if key is None else key
    if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        raise InputError(f"key is one typed PRNG key, such as jax.random.key(0); got {key!r}")
    parts = keyed_batches(snn, images, key, batch_size or min(100, snn.batch_size()))
    outputs, at_sites = summed(_sums(reference, snn, x, keys) for x, keys in parts)
    rows = tuple(_row(site, snn, at_sites[site.name]) for site in snn.network.sites.values())
    departure = np.mean([np.sqrt(o["error"] / max(o["power"], TINY)) for o in outputs])
    agreements = [o["agreed"] / o["answers"] for o in outputs if o["answers"]]
    agreement = float(np.mean(agreements)) if agreements else None
    analog, history = snn.network.graph.last_layers, snn.network.history
    return Report(rows, snn.steps, len(images), analog, history, float(departure), agreement)


def _row(site: Site, snn: Snn, sums: dict[str, Any]) -> Row:
    theta, power = np.asarray(snn.network.thetas[site.name]), max(sums["power"], TINY)
    return Row(
        site.name,
        site.layers,
        snn.modes[site.name],
        neurons=math.prod(site.shape),
        theta=(float(theta.min()), float(theta.max())),
        dead=float(np.mean(sums["fired"] == 0)),
        clipped=float(sums["clipped"] / max(sums["positive"], 1)),
        quantisation=float(np.sqrt(sums["own"] / power)),
        departure=float(np.sqrt(sums["departure"] / power)),
    )


@jax.jit
def _sums(reference: Network, snn: Snn, images: Array, keys: Key | None) -> tuple[list[dict], dict[str, dict]]:
    """Sums over examples: for each output, and for each site over its neurons too."""
    numbers = tuple(site.output for site in reference.sites.values())
    activations = dict(zip(reference.sites, reference.values(images, numbers), strict=True))
    expected = jax.tree.leaves(reference.apply(images))
    outputs, rates = snn.rates(images, keys)
    of_outputs = [_sums_of_output(*pair) for pair in zip(jax.tree.leaves(outputs), expected, strict=True)]
    return of_outputs, {name: _sums_of_site(snn, name, activations[name], rates[name]) for name in rates}


def _sums_of_output(output: jax.Array, expected: jax.Array) -> dict[str, Any]:
    several = expected.ndim > 1 and expected.shape[-1] > 1
    agreed = output.argmax(-1) == expected.argmax(-1) if several else jnp.zeros(0)
    return {
        "error": jnp.sum((output - expected) ** 2),
        "power": jnp.sum(expected**2),
        "agreed": agreed.sum(),
        "answers": agreed.size,
    }


def _sums_of_site(snn: Snn, name: str, activation: jax.Array, rate: jax.Array) -> dict[str, jax.Array]:
    network, site, neuron = snn.network, snn.network.sites[name], snn.in_network[name]
    theta, positive = network.theta(site, activation), activation > 0
    most = neuron.largest_rate * theta
    own = jnp.where(positive, neuron.squared_error(activation, theta, snn.steps), 0.0)
    axes = [i for i in range(rate.ndim) if site.axis is None or i != site.axis + 1]
    return {
        "fired": (rate != 0).sum(axis=axes),
        "positive": positive.sum(),
        "clipped": (activation > most * (1 + 1e-6)).sum(),
        "power": jnp.sum(activation**2),
        "own": own.sum(),
        "departure": jnp.sum((rate - activation) ** 2),
    }
