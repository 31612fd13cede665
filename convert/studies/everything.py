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
from tppjax import ann, files
from tppjax.errors import InputError, check_number

FEWEST = 100  # test images, below which accuracy says little


class Planned(NamedTuple):
    """A study in the report.

    Attributes:
      share: of the time; what the shares leave goes into compiling.
      module: with its `main`.
      options: what `main` takes.
      forwards: how many runs of the ANN an image costs, by seeds and sites.
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
    """Every study on one network, and a report of them: report.md, with the pictures beside it."""

    minutes: float = 40.0
    """Time for all, on this machine: the studies get as many test images as fit, of the first --limit. What a first run
    chose is kept in plan.json, and later ones abide by it."""


def main(config: All) -> str:
    """Runs the studies and writes the report."""
    check_number("--minutes", config.minutes, 0, 2**20, above=True)
    setup = set_up(config, ("baseline", "shuffle", "tpp"))
    out = config.out or config.ann / "studies"
    make_folder(out)
    with files.locked(out):  # another process at the same time abides by the same plan
        limits = _plan(config, setup, out)
    given = {f.name: getattr(config, f.name) for f in fields(Experiment)}
    sections = []
    for name, planned in STUDIES.items():
        started = time.perf_counter()
        sections.append(planned.module.main(planned.options(**{**given, "out": out, "limit": limits[name]})))
        print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes on {limits[name]} images", flush=True)
    sections.append(theorem.main(theorem.Theorem(out=out, overwrite=config.overwrite)))
    text = _report(setup, sections, config, limits, out)
    files.write_text(out / "report.md", text)
    print(f"wrote {out / 'report.md'}")
    return text


def _plan(config: All, setup: Setup, out: Path) -> dict[str, int]:
    """Test images of each study: as many as fit the time, in steps of 1, 2 and 5, or those of an earlier run."""
    file, asked = out / "plan.json", {"minutes": config.minutes, "seeds": config.seeds, "limit": config.limit}
    if file.is_file() and not config.overwrite:
        before, images = _planned_before(file, len(setup.images))
        if before == asked:
            return images
        raise FileExistsError(f"{file} is for {before}, not {asked}: choose another --out, or give --overwrite")
    speed = _images_a_second(setup)
    n = len(setup.network.sites)
    images = {}
    for name, planned in STUDIES.items():
        fit = planned.share * 60 * config.minutes * speed / planned.forwards(config.seeds, n)
        rounded = max(step * 10**e for e in range(7) for step in (1, 2, 5) if step * 10**e <= max(fit, FEWEST))
        images[name] = min(rounded, len(setup.images))
    files.write_json(file, {"asked": asked, "ann_images_per_second": speed, "images": images})
    return images


def _planned_before(file: Path, n: int) -> tuple[dict, dict[str, int]]:
    """What was asked for, and the images of each study, at most `n`."""
    content = files.read_json(file, REMEDY)
    asked, images = content.get("asked"), content.get("images")
    if not isinstance(asked, dict) or not isinstance(images, dict) or images.keys() != STUDIES.keys():
        raise InputError(f"{file} is damaged (asked or images lacks entries): {REMEDY}")
    for name, value in images.items():
        if type(value) is not int or not 1 <= value <= n:
            raise InputError(f"{file} is damaged (images of {name} are {value!r}, not 1 to {n}): {REMEDY}")
    return asked, images


def _images_a_second(setup: Setup) -> float:
    """Of the ANN: the fastest of four times, the first of which compiles."""
    some, seconds = setup.images[: min(500, len(setup.images))], []
    for _ in range(4):
        started = time.perf_counter()
        ann.accuracy(setup.network, some)
        seconds.append(time.perf_counter() - started)
    return len(some) / min(seconds)


def _report(setup: Setup, sections, config: All, limits, out: Path) -> str:
    history = "".join(
        f"- {step}\n" for step in setup.conversion.snn(8, "baseline", prepared_for="baseline").network.history
    )
    made = about(study.PROGRAM)
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    images = ", ".join(f"{limits[s.name]:,} ({s.name})" for s in sections if s.name in limits)
    few, many = min(limits.values()), max(limits.values())
    head = (
        f"# Temporal misalignment, measured: {setup.settings['model']['name']} on {setup.settings['dataset']}\n\n"
        f"Every experiment of the paper, by\n\n    {made['command']}\n\non {made['hardware']}, {versions}. Of the "
        f"test images the studies use the first {images}; random modes run with {config.seeds} seeds. An accuracy near "
        f"90 % has a standard error of {_standard_error(few)} points on {few:,} images and {_standard_error(many)} on "
        f"{many:,}; modes, which see the same images, differ more surely than that.\n\n"
    )
    if history:
        head += f"The network, at T = 8:\n\n{history}\n"
    return head + _related(out, config.seeds) + "\n".join(map(str, sections))


def _standard_error(n: int) -> str:
    return f"{100 * np.sqrt(0.9 * 0.1 / n):.1f}"


def _related(out: Path, seeds: int) -> str:
    """Whether the layers at which shuffling helps are those before the neurons that went wrong."""
    _, rows = read(out / "single_layer" / FILE, {"accuracy": list})
    wanted = {"mode": "shuffle", "T": 4, "seeds": seeds}
    gained = single_layer.gains([r for r in rows if wanted.items() <= r.items()])
    _, found = read(out / "misalignment" / FILE, misalignment.STUDY.entries)
    at = {r["mode"]: r for r in found if (r["T"], r["seeds"]) == (4, seeds)}
    saved = [_wrong(at["baseline"], site) - _wrong(at["shuffle"], site) for site in gained]
    rank = study.rank_correlation(list(gained.values())[:-1], saved[1:])
    if np.isnan(rank):
        return ""
    return (
        "Does the explanation hold layer by layer? At T = 4, what shuffling one layer gains, and by how many fewer "
        "wrong "
        f"spikes the next one fires when all are shuffled, have a rank correlation of {rank:.2f} over {len(saved) - 1} "
        "layers.\n\n"
    )


def _wrong(row, site) -> float:
    return row["superfluous"][site] + row["missing"][site]
