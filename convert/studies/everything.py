"""All studies on one network within a time budget, and their report."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from convert.experiments.options import Experiment
from convert.experiments.results import FILE, REMEDY, about, make_folder, read
from convert.experiments.setup import Setup, set_up
from convert.studies import accuracy, anytime, misalignment, orders, potentials, single_layer, spikes, study, theorem
from convert.studies.study import Section
from tppjax import ann, files
from tppjax.errors import InputError, check_number

FEWEST = 100  # test images, below which accuracy says little


class Planned(NamedTuple):
    """A study in the report.

    Attributes:
      share: its share of the time; the time that all shares leave goes into compilation.
      module: the module of the study, with a function `main`.
      options: the class of the options that `main` takes.
      forwards: from the numbers of seeds and sites to the cost of an image, in forward passes of the ANN.
    """

    share: float
    module: ModuleType
    options: type
    forwards: Callable[[int, int], float]


STUDIES = {
    "accuracy": Planned(0.3, accuracy, accuracy.Accuracy, lambda seeds, sites: 60 + seeds * (1.4 * 60 + 8)),
    "anytime": Planned(0.15, anytime, anytime.Anytime, lambda seeds, sites: 60 + 2 * seeds * 1.6 * 60),
    "orders": Planned(0.13, orders, orders.Orders, lambda seeds, sites: 1.4 * (24 * 4 + (1 + 28 * 2) * 8)),
    "single_layer": Planned(
        0.12, single_layer, single_layer.SingleLayer, lambda seeds, sites: (2 + sites) * seeds * 1.6 * 4
    ),
    "spikes": Planned(0.04, spikes, spikes.Spikes, lambda seeds, sites: 60 + 4 * 3 * seeds + 8),
    "misalignment": Planned(
        0.05, misalignment, misalignment.Misalignment, lambda seeds, sites: 3 * 28 * (1 + 2 * seeds)
    ),
    "potentials": Planned(0.03, potentials, potentials.Potentials, lambda seeds, sites: 2 * 8 * (1 + 2 * seeds)),
}


@dataclass(frozen=True)
class All(Experiment):
    """Run every study on one network and write report.md, with the plots beside it."""

    minutes: float = 40.0
    """Time for all studies on this machine. Each gets as many of the first --limit test images as fit. The numbers that
    the first run chooses are kept in plan.json, and later runs use them too."""


def main(config: All) -> str:
    """Runs the studies and writes the report."""
    check_number("--minutes", config.minutes, 0, 2**20, above=True)
    setup = set_up(config, ("baseline", "shuffle", "tpp"))
    out = config.out or config.ann / "studies"
    make_folder(out)
    with files.locked(out):  # another process at the same time uses the same plan
        limits = _plan(config, setup, out)
    shared = {f.name: getattr(config, f.name) for f in fields(Experiment)}
    sections = []
    for name, planned in STUDIES.items():
        started = time.perf_counter()
        sections.append(planned.module.main(planned.options(**{**shared, "out": out, "limit": limits[name]})))
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes on {limits[name]} images", flush=True)
    sections.append(theorem.main(theorem.Theorem(out=out, overwrite=config.overwrite)))
    text = _report(setup, sections, config, limits, out)
    files.write_text(out / "report.md", text)
    print(f"wrote {out / 'report.md'}")
    return text


def _plan(config: All, setup: Setup, out: Path) -> dict[str, int]:
    """Test images of each study: as many as fit the time, in steps of 1, 2 and 5, or those of an earlier run."""
    file, options = out / "plan.json", {"minutes": config.minutes, "seeds": config.seeds, "limit": config.limit}
    if file.is_file() and not config.overwrite:
        before, images = _planned_before(file, len(setup.images))
        if before == options:
            return images
        raise FileExistsError(f"{file} is for {before}, not {options}: choose another --out, or give --overwrite")
    speed = _images_a_second(setup)
    n = len(setup.network.sites)
    images = {}
    for name, planned in STUDIES.items():
        fit = planned.share * 60 * config.minutes * speed / planned.forwards(config.seeds, n)
        rounded = max(step * 10**e for e in range(7) for step in (1, 2, 5) if step * 10**e <= max(fit, FEWEST))
        images[name] = min(rounded, len(setup.images))
    files.write_json(file, {"asked": options, "ann_images_per_second": speed, "images": images})
    return images


def _planned_before(file: Path, n: int) -> tuple[dict, dict[str, int]]:
    """The options of the plan in a file, and the number of images of each study, at most `n`."""
    content = files.read_json(file, REMEDY)
    options, images = content.get("asked"), content.get("images")
    if not isinstance(options, dict) or not isinstance(images, dict) or images.keys() != STUDIES.keys():
        raise InputError(f"{file} is damaged (asked or images lacks entries): {REMEDY}")
    for name, value in images.items():
        if type(value) is not int or not 1 <= value <= n:
            raise InputError(f"{file} is damaged (images of {name} are {value!r}, not 1 to {n}): {REMEDY}")
    return options, images


def _images_a_second(setup: Setup) -> float:
    """The speed of the ANN, from the fastest of four runs, the first of which compiles."""
    some, seconds = setup.images[: min(500, len(setup.images))], []
    for _ in range(4):
        started = time.perf_counter()
        ann.accuracy(setup.network, some)
        seconds.append(time.perf_counter() - started)
    return len(some) / min(seconds)


def _report(setup: Setup, sections: list[Section], config: All, limits: dict[str, int], out: Path) -> str:
    history = "".join(f"- {step}\n" for step in setup.conversion.snn(8, "baseline").network.history)
    provenance = about(study.PROGRAM)
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    images = ", ".join(f"{limits[s.name]:,} ({s.name})" for s in sections if s.name in limits)
    few, many = min(limits.values()), max(limits.values())
    head = (
        f"# Temporal misalignment, measured: {setup.settings['model']['name']} on {setup.settings['dataset']}\n\n"
        f"This report repeats every experiment of the paper. It was made by\n\n    {provenance['command']}\n\non "
        f"{provenance['hardware']}, with {versions}. Each study uses only the first test images, in the number given "
        f"here: {images}. Random modes run with {config.seeds} seeds. An accuracy near 90 % has a standard error of "
        f"{_standard_error(few)} points on {few:,} images and {_standard_error(many)} on {many:,}. Differences between "
        "modes are more certain than that, since all modes are measured on the same images.\n\n"
    )
    if history:
        head += f"The network was made in these steps (for `baseline` at T = 8):\n\n{history}\n"
    return head + _related(out, config.seeds) + "\n".join(map(str, sections))


def _standard_error(n: int) -> str:
    return f"{100 * np.sqrt(0.9 * 0.1 / n):.1f}"


def _related(out: Path, seeds: int) -> str:
    """A paragraph: whether shuffling helps at the layers that precede the neurons with wrong spikes."""
    _, rows = read(out / "single_layer" / FILE)
    case = {"mode": "shuffle", "T": 4, "seeds": seeds}
    gained = single_layer.gains([r for r in rows if case.items() <= r.items()])
    _, rows = read(out / "misalignment" / FILE)
    at = {r["mode"]: r for r in rows if (r["T"], r["seeds"]) == (4, seeds)}
    saved = [_wrong(at["baseline"], site) - _wrong(at["shuffle"], site) for site in gained]
    rank = study.rank_correlation(list(gained.values())[:-1], saved[1:])
    if np.isnan(rank):
        return ""
    return (
        "Does the explanation hold layer by layer? At T = 4, the gain from shuffling one layer and the reduction of "
        "wrong spikes in the next layer when all are shuffled have a rank correlation of "
        f"{rank:.2f} over {len(saved) - 1} layers.\n\n"
    )


def _wrong(row: dict, site: str) -> float:
    """Wrong spikes at a site, in percent of the steps."""
    return row["superfluous"][site] + row["missing"][site]
