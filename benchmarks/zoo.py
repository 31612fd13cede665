"""`python -m benchmarks.zoo`: which of torchvision's and timm's networks convert, and how near they come to PyTorch.

Each network is traced in a process of its own, with random weights, a random affine part of batch norm and statistics
that its own random images gave it. One that converts is compared with PyTorch on other images, then calibrated, and
its spiking version compared with itself; one that is refused gives its reason. What was measured is kept, so that the
command goes on where it was stopped.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

import convert
from tppjax import files
from tppjax.errors import InputError

SMALL = 64  # pixels a side, where a network takes images of this size
IMAGES, T = 16, 64
PLAIN = ("ReLU", "ReLU6", "Hardtanh")
TIMM = """
resnet18d resnet26t resnet50d resnetaa50 resnetblur50 resnet14t res2net50_26w_4s res2next50 resnest14d seresnet18
eca_resnet33ts ecaresnet50t skresnet18 gcresnet33ts gernet_s repvgg_a0 mobileone_s0 selecsls42b dla34 dla60
hrnet_w18_small densenetblur121d dpn48b dpn68 inception_v3 inception_v4 inception_resnet_v2 xception41 xception65
legacy_xception nasnetalarge mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100 mobilenetv4_conv_small
mobilenetv4_conv_medium mobilenet_edgetpu_v2_xs fbnetc_100 semnasnet_100 spnasnet_100 ghostnet_100 ghostnetv2_100
ghostnetv3_100 repghostnet_050 efficientnet_lite0 efficientnet_b0 efficientnet_es regnetx_002 regnety_002 regnetz_b16
rexnet_100 cspresnet50 cspdarknet53 cs3darknet_s darknet53 vovnet39a ese_vovnet19b_dw hgnet_tiny hgnetv2_b0
hardcorenas_a tinynet_a mixnet_s lcnet_050 levit_128s efficientvit_b0 efficientvit_m0 nextvit_small starnet_s1
nf_resnet50 nf_regnet_b0 dm_nfnet_f0 resnetv2_50 resnetv2_50x1_bit resnetv2_50d tresnet_m convnext_tiny
convmixer_768_32 swin_tiny_patch4_window7_224 vit_tiny_patch16_224 deit_tiny_patch16_224 mixer_b16_224 gmlp_s16_224
resmlp_12_224 poolformer_s12 maxvit_tiny_tf_224 coatnet_0_rw_224 mobilevit_s edgenext_xx_small fastvit_t8
inception_next_tiny pvt_v2_b0 xcit_nano_12_p16_224 botnet26t_256 halonet26t lambda_resnet26t visformer_tiny
volo_d1_224 cait_xxs24_224 twins_svt_small crossvit_tiny_240 davit_tiny focalnet_tiny_srf efficientformer_l1
efficientformerv2_s0 repvit_m0_9 mambaout_femto rdnet_tiny hieradet_small legacy_senet154 legacy_seresnet18
sequencer2d_s shvit_s1 test_resnet test_byobnet
""".split()


@dataclass(frozen=True)
class Zoo:
    """Trace every classification network of torchvision, and a list of timm's."""

    out: Path = Path("docs/zoo.md")
    """File of the table."""

    results: Path = Path("benchmarks/zoo.json")
    """File of the figures; networks that are in it are not run again."""

    only: str = ""
    """Networks whose library/name has this in it only, such as timm/ or resnet."""

    minutes: float = 15.0
    """Time limit for each network."""

    one: str | None = None
    """Trace this network only, and print its figures as a line of JSON; what the command runs for each."""


def main(config: Zoo) -> None:
    """Runs, writes and prints."""
    if config.one:
        print(json.dumps(row(*config.one.split("/"))))
        return
    rows = files.read_json(config.results, "move it away")["rows"] if config.results.is_file() else {}
    wanted = [f"torchvision/{name}" for name in torchvision_names()] + [f"timm/{name}" for name in TIMM]
    for name in tqdm([name for name in wanted if config.only in name and name not in rows], disable=None):
        rows[name] = _run(name, 60 * config.minutes)
        about = {"command": "python -m benchmarks.zoo", **_about()}
        files.write_json(config.results, {**about, "rows": rows})
    about, measured = files.read_json(config.results, "move it away"), [name for name in wanted if name in rows]
    files.write_text(config.out, page(about, {name: rows[name] for name in measured}, len(wanted) - len(measured)))
    print(f"wrote {config.out}")


def _run(name: str, limit: float) -> dict:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit / 60:.0f} minutes"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def _about() -> dict:
    known = ("jax", "torch", "torchvision", "timm", "tppjax")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in known},
    }


# One network


def torchvision_names() -> list[str]:
    """Those for classification of whole images."""
    models = _torchvision().models
    return models.list_models(module=models)


def _torchvision():
    """The library; where its operations for detection were built for another PyTorch, without those."""
    import torch

    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")


def row(library: str, name: str) -> dict:
    """The figures of one network.

    Returns:
      "size" of the images, "parameters" in PyTorch, "activations", the classes of its activation modules, "seconds"
      until it was traced or refused; then either "refused", the reason, or "sites"; "apart", the largest difference of
      logits from PyTorch's, relative to the largest logit; and of the SNN, rounded, at T = 64: "agreement" with its
      own ANN in percent of images, and "error", the root mean square of the difference of logits relative to how far
      they lie from their means over images.
    """
    import torch

    torch.manual_seed(0)
    torchvision = _torchvision()
    make = torchvision.models.get_model if library == "torchvision" else importlib.import_module("timm").create_model
    model = make(name).eval()
    size = _size(model)
    _randomise(model, images(8, size, 1))
    found = {"size": size, "parameters": sum(p.numel() for p in model.parameters()), "activations": _activations(model)}
    started = time.perf_counter()
    try:
        network = convert.from_torch(model, images(1, size, 2))
    except InputError as e:
        return {**found, "seconds": time.perf_counter() - started, "refused": reason(str(e))}
    found["seconds"] = time.perf_counter() - started
    return {**found, **_compared(model, network, size)}


def images(n: int, size: int, seed: int) -> np.ndarray:
    """Random ones, normalised, `[n, 3, size, size]`; each has a colour and coarse patches of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 3, 4, 4)).repeat(-(-size // 4), 2).repeat(-(-size // 4), 3)[..., :size, :size]
    x = rng.normal(size=(n, 3, 1, 1)) + coarse + 0.5 * rng.normal(size=(n, 3, size, size))
    return x.astype(np.float32)


def _size(model) -> int:
    """`SMALL`, or what the network was made for."""
    import torch

    own = getattr(model, "default_cfg", {}).get(
        "input_size", (3, 299 if type(model).__name__ == "Inception3" else 224, 0)
    )
    for size in (SMALL, own[1]):
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, size, size))
            return size
        except Exception:  # of whatever type, since a network that can't take this size may fail anywhere
            if size == own[1]:
                raise


def _activations(model) -> list[str]:
    """The classes of the modules that are activations, as PyTorch has them."""
    from torch.nn.modules import activation

    return sorted({type(m).__name__ for m in model.modules() if type(m).__module__ == activation.__name__})


def _randomise(model, x: np.ndarray) -> None:
    """Batch norm with random scales and shifts, and the statistics of these images."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean over batches, of which there is one
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
        if norms:
            model(torch.from_numpy(x))
    model.eval()


def _compared(model, network, size: int) -> dict:
    """What `row` returns of a network that converts."""
    import jax
    import torch

    x = images(IMAGES, size, 3)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    ann = np.asarray(jax.jit(network.apply)(x))
    found = {"sites": len(network.sites), "apart": float(np.abs(ann - wanted).max() / np.abs(wanted).max())}
    try:
        calibrated = convert.calibrate(network, x, "max", batch_size=IMAGES)
        spiking = np.asarray(convert.to_snn(calibrated, T, "rounded").apply(x))
    except InputError as e:
        return {**found, "not_spiking": str(e)}
    error = np.sqrt(np.mean((spiking - ann) ** 2) / np.mean((ann - ann.mean(0)) ** 2))
    return {**found, "agreement": 100 * float(np.mean(ann.argmax(-1) == spiking.argmax(-1))), "error": float(error)}


def reason(refusal: str) -> str:
    """What is refused and where it is written, of a sentence of the library's, without the names of all modules."""
    lines = refusal.splitlines()
    if len(lines) == 1:
        return refusal
    places: dict[str, list[str]] = {}
    for line in lines[1:-1]:
        if found := re.match(r"  (.+?) at (\S+?:\d+)(?:.*?: (.+))?", line):
            places.setdefault(found[3] or found[1], []).append(found[2])
    return "; ".join(f"{what} ({', '.join(dict.fromkeys(at))})" for what, at in places.items())


# The page


def page(about: dict, rows: dict[str, dict], left: int = 0) -> str:
    """The table, after what it shows and how it was made; `left` networks are not measured yet."""
    kinds = {kind: [name for name, r in rows.items() if kind in r] for kind in ("sites", "refused", "failed")}
    plain = [n for n, r in rows.items() if r.get("activations") and set(r["activations"]) <= set(PLAIN)]
    near = [r["apart"] for r in rows.values() if "apart" in r]
    slowest = max((rows[name]["seconds"] for name in kinds["refused"]), default=0)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Networks that convert",
        "",
        f"We gave every classification network of torchvision and a list of timm's, {len(rows)} in all, to "
        f"`convert.from_torch` unchanged: {len(kinds['sites'])} convert, {len(kinds['refused'])} are refused"
        + (f", {len(kinds['failed'])} failed" if kinds["failed"] else "")
        + f". Of those whose only activation modules are {', '.join(PLAIN[:-1])} or {PLAIN[-1]}, "
        f"{sum(n in kinds['sites'] for n in plain)} of {len(plain)} convert; the rest also compute something else, "
        "such as gates, attention, or max-pooling of values that can be negative."
        + (f" {left} more networks of timm are not measured yet." if left else ""),
        "",
        "Weights are random, and so are the scales and shifts of batch norm, whose statistics come from random images. "
        f"Images have {SMALL} x {SMALL} pixels if the network takes them, else the size that it was made for.",
        "",
        "- *apart*: the largest difference between the logits of the traced network and PyTorch's, relative to the "
        f"largest logit, over {IMAGES} images; at most {max(near, default=0):.1e}. `from_torch` refuses "
        "more than 1e-4.",
        "- *agreement*: the share of these images for which the spiking network (mode `rounded`, "
        f"T = {T}) and its ANN choose the same class; thresholds are the largest activations on them. Random networks "
        "choose nearly at random, so see *error* too: the root mean square difference of the logits, relative to how "
        "far the ANN's logits lie from their means over the images.",
        "- *seconds*: the time until the network was traced and compared with PyTorch, or refused; the slowest refusal "
        f"took {slowest:.1f} s. Other programs ran on the machine.",
        "",
        f"Made by `make zoo` (`{about['command']}`), {about['date']}: {versions}, Python {about['python']}, "
        f"{about['hardware']}.",
        "",
        "## Converted",
        "",
        "| network | pixels | parameters | activations | sites | apart | agreement | error | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in kinds["sites"]:
        r = rows[name]
        spiking = f"{r['agreement']:.0f} % | {r['error']:.3f}" if "error" in r else f"{r['not_spiking']} | "
        lines.append(
            f"| {name} | {r['size']} | {r['parameters'] / 1e6:.1f} M | {', '.join(r['activations'])} | {r['sites']} | "
            f"{r['apart']:.1e} | {spiking} | {r['seconds']:.1f} |"
        )
    lines += ["", "## Refused", "", "| network | activations | reason | seconds |", "|---|---|---|---|"]
    for name in kinds["refused"]:
        r = rows[name]
        lines.append(f"| {name} | {', '.join(r['activations'])} | {r['refused']} | {r['seconds']:.1f} |")
    if kinds["failed"]:
        lines += ["", "## Failed", "", "| network | reason |", "|---|---|"]
        lines += [f"| {name} | {rows[name]['failed']} |" for name in kinds["failed"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Zoo))
