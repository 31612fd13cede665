"""What a conversion did at each site, and where the spiking network departs from the ANN."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.correction import feeding
from convert.snn import Snn, example_keys
from tppjax import prng
from tppjax.ann import Ann, sites, thresholds, watching
from tppjax.batching import batches
from tppjax.checks import check_ann, check_images
from tppjax.errors import InputError, check_count
from tppjax.thresholds import squared_error


class Row(NamedTuple):
    """One site, in the order in which they run. Shares are of 1; errors are relative, root of mean squares.

    Attributes:
      site: path of the site.
      layers: paths of the linear layers that feed it.
      mode: its neurons.
      neurons: how many for one image.
      theta: least and largest threshold.
      dead: share of channels that never fire.
      clipped: share of the ANN's positive activations above the threshold.
      quantisation: error that the neuron would make on the ANN's own input.
      departure: of the rates from the ANN's activations, all that came before included.
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
    """The rows of all sites, and what they were made from; `print` shows it."""

    rows: tuple[Row, ...]
    T: int
    n: int
    analog: tuple[str, ...]
    history: tuple[str, ...]
    agreement: float

    @property
    def worst(self) -> Row:
        """The site where the departure from the ANN grows most."""
        grown = np.diff([0.0, *(row.departure for row in self.rows)])
        return self.rows[int(np.argmax(grown))]

    def __str__(self):
        width = max(len(row.site) for row in self.rows)
        lines = [f"T={self.T}, {self.n} images; the SNN answers as the ANN does on {100 * self.agreement:.1f} %"]
        lines += [f"  {step}" for step in self.history]
        lines.append(
            f"{'site':{width}} {'mode':>9} {'neurons':>8} {'threshold':>17} {'dead':>6} {'clipped':>8} "
            f"{'own error':>10} {'departure':>10}"
        )
        for row in self.rows:
            low, high = row.theta
            theta = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            lines.append(
                f"{row.site:{width}} {row.mode:>9} {row.neurons:>8} {theta:>17} {row.dead:>6.1%} {row.clipped:>8.2%} "
                f"{row.quantisation:>10.1%} {row.departure:>10.1%}"
            )
        lines.append(f"analog: the pixels, and {', '.join(self.analog)}, which give the logits")
        worst = self.worst
        lines.append(f"departs most at {worst.site}, fed by {', '.join(worst.layers)}")
        return "\n".join(lines)


def report(snn: Snn, images, ann: Ann | None = None, key=None, batch_size: int | None = None) -> Report:
    """How `snn` compares with its ANN on `images`, site by site: where the accuracy is lost.

    Args:
      snn: the spiking network.
      images: `[N, H, W, C]`; some hundred are enough.
      ann: what to compare with, if the network was corrected before it was converted; by default what was converted.
      key: PRNG key of the random modes; seed 0 by default.
      batch_size: images a call; by default up to 100, as many as suit the device's memory.

    Returns:
      The report.

    Raises:
      InputError: if there are no images, they don't fit the network, or `ann` is another network.
    """
    if not isinstance(snn, Snn) or snn.T is None:
        raise InputError(f"a report is on what to_snn gives, before for_any_T(); got {type(snn).__name__}")
    ann = snn.ann if ann is None else ann
    check_ann(ann)
    images = check_images(ann, images, "a report")
    fed = {site: tuple(layer.path for layer in layers) for site, layers in feeding(ann, images.shape[-3:]).items()}
    if strangers := sites(ann.model, images.shape[-3:]).keys() - thresholds(snn.variables).keys():
        raise InputError(f"ann is another network than the SNN, which has no {', '.join(sorted(strangers))}")
    if batch_size is not None:
        check_count("batch_size", batch_size)
    key = jax.random.key(0, impl=prng.HASH) if key is None else key
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) or key.shape:
        raise InputError(f"key is one typed PRNG key, such as jax.random.key(0); got {key!r}")
    keys = example_keys(key, np.arange(len(images)))
    batch_size = batch_size or min(100, snn.batch_size(images.shape[1:]))
    sums = None
    for x, k in zip(batches(images, batch_size), batches(keys, batch_size), strict=True):
        new = jax.tree.map(np.float64, _sums(ann, snn, x, k))
        sums = new if sums is None else jax.tree.map(np.add, sums, new)
    agreed, at_sites = sums
    *_, analog = fed.values()
    rows = tuple(_row(site, fed[site], snn, at_sites[site], len(images)) for site in list(fed)[:-1])
    return Report(rows, snn.T, len(images), analog, snn.ann.history, agreed / len(images))


def _row(site, layers, snn: Snn, sums: dict, n: int) -> Row:
    theta = np.asarray(thresholds(snn.variables)[site])
    mode = snn.mode if isinstance(snn.mode, str) else snn.mode[site]
    power = max(sums["power"], np.finfo(float).tiny)
    return Row(
        site,
        layers,
        mode,
        neurons=int(sums["neurons"] / n),
        theta=(float(theta.min()), float(theta.max())),
        dead=float(np.mean(sums["spikes"] == 0)),
        clipped=float(sums["clipped"] / max(sums["positive"], 1)),
        quantisation=float(np.sqrt(sums["own"] / power)),
        departure=float(np.sqrt(sums["departure"] / power)),
    )


@jax.jit
def _sums(ann: Ann, snn: Snn, images, keys):
    """Examples on which the answers agree, and for each site sums over examples and neurons."""
    found = {}

    def record(site, module, x, y):
        found[site] = y

    with watching((type(ann.model.act),), record):
        wanted = ann.apply(images)
    logits, counts = snn.activity(images, keys if snn.random else None)
    thetas = thresholds(snn.variables)
    modes = {site: snn.mode if isinstance(snn.mode, str) else snn.mode[site] for site in counts}
    sites = {site: _compared(y, counts[site], thetas[site], snn.T, modes[site]) for site, y in found.items()}
    return (logits.argmax(-1) == wanted.argmax(-1)).mean() * len(images), sites


def _compared(activation, count, theta, T: int, mode: str) -> dict:
    theta = jnp.broadcast_to(theta, activation.shape)
    positive = activation > 0
    own = jnp.where(positive, squared_error(activation, theta, T, mode), 0.0)
    return {
        "neurons": jnp.float32(activation.size),
        "spikes": count.sum(axis=tuple(range(count.ndim - 1))),
        "positive": positive.sum(),
        "clipped": (activation > theta * (1 + 1e-6)).sum(),
        "power": jnp.sum(activation**2),
        "own": own.sum(),
        "departure": jnp.sum((theta * count / T - activation) ** 2),
    }
