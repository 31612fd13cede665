"""`python -m benchmarks.zoo`: which networks of torchvision and timm convert, and how close they are to PyTorch.

Each network is traced in a process of its own, with random weights, a random affine part of batch norm and statistics
that its own random images gave it. One that converts is compared with PyTorch on other images, then calibrated, and
its spiking version compared with itself; one that is refused gives its reason. Measurements are kept, so that the
command continues where it was stopped.
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
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

import convert
from benchmarks.zoo_page import IMAGES, SMALL, T, page
from tppjax import files
from tppjax.errors import InputError

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
    """Trace every classification network of torchvision, and a list of those of timm."""

    out: Path = Path("docs/zoo.md")
    """File of the table."""

    results: Path = Path("benchmarks/zoo.json")
    """File of the figures; networks that are in it are not run again."""

    only: str = ""
    """Run only networks whose library/name contains this, such as timm/ or resnet."""

    minutes: float = 15.0
    """Time limit for each network."""

    one: str | None = None
    """Trace only this network, and print its figures as a line of JSON; the command runs this for each."""


def main(config: Zoo) -> None:
    """Runs, writes and prints."""
    if config.one:
        print(json.dumps(row(*config.one.split("/"))))
        return
    rows = files.read_json(config.results, "move it away")["rows"] if config.results.is_file() else {}
    names = [f"torchvision/{name}" for name in torchvision_names()] + [f"timm/{name}" for name in TIMM]
    for name in tqdm([name for name in names if config.only in name and name not in rows], disable=None):
        rows[name] = _run(name, 60 * config.minutes)
        about = {"command": "python -m benchmarks.zoo", **_about()}
        files.write_json(config.results, {**about, "rows": rows})
    about, measured = files.read_json(config.results, "move it away"), [name for name in names if name in rows]
    files.write_text(config.out, page(about, {name: rows[name] for name in measured}, len(names) - len(measured)))
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
    """The networks for classification of whole images."""
    models = _torchvision().models
    return models.list_models(module=models)


def _torchvision() -> Any:
    """The library; without its operations for detection, if these were built for another PyTorch."""
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
    figures: dict[str, Any] = {
        "size": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "activations": _activations(model),
    }
    started = time.perf_counter()
    try:
        network = convert.from_torch(model, images(1, size, 2))
    except InputError as e:
        return {**figures, "seconds": time.perf_counter() - started, "refused": reason(str(e))}
    figures["seconds"] = time.perf_counter() - started
    return {**figures, **_compared(model, network, size)}


def images(n: int, size: int, seed: int) -> np.ndarray:
    """Random normalised images, `[n, 3, size, size]`, each with its own colour and coarse patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(n, 3, 4, 4)).repeat(-(-size // 4), 2).repeat(-(-size // 4), 3)[..., :size, :size]
    x = rng.normal(size=(n, 3, 1, 1)) + coarse + 0.5 * rng.normal(size=(n, 3, size, size))
    return x.astype(np.float32)


def _size(model: Any) -> int:
    """`SMALL`, or the size for which the network was made."""
    import torch

    default = 299 if type(model).__name__ == "Inception3" else 224
    size = getattr(model, "default_cfg", {}).get("input_size", (3, default))[1]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, SMALL, SMALL))
    except Exception:  # of any type, since a network that can't take this size may fail anywhere
        return size
    return SMALL


def _activations(model: Any) -> list[str]:
    """The classes of the modules that are activations of PyTorch."""
    from torch.nn.modules import activation

    return sorted({type(m).__name__ for m in model.modules() if type(m).__module__ == activation.__name__})


def _randomise(model: Any, x: np.ndarray) -> None:
    """Gives batch norm random scales and shifts, and the statistics of these images."""
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


def _compared(model: Any, network: convert.Network, size: int) -> dict[str, Any]:
    """The part of `row` for a network that converts."""
    import jax
    import torch

    x = images(IMAGES, size, 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    ann = np.asarray(jax.jit(network.apply)(x))
    figures: dict[str, Any] = {
        "sites": len(network.sites),
        "apart": float(np.abs(ann - expected).max() / np.abs(expected).max()),
    }
    try:
        calibrated = convert.calibrate(network, x, "max", batch_size=IMAGES)
        spiking = np.asarray(convert.to_snn(calibrated, T, "rounded").apply(x))
    except InputError as e:
        return {**figures, "not_spiking": str(e)}
    error = np.sqrt(np.mean((spiking - ann) ** 2) / np.mean((ann - ann.mean(0)) ** 2))
    return {**figures, "agreement": 100 * float(np.mean(ann.argmax(-1) == spiking.argmax(-1))), "error": float(error)}


def reason(refusal: str) -> str:
    """The refused operations and their places, from a message of the library, without the names of all modules."""
    lines = refusal.splitlines()
    if len(lines) == 1:
        return refusal
    places: dict[str, list[str]] = {}
    for line in lines[1:-1]:
        if match := re.match(r"  (.+?) at (\S+?:\d+)(?:.*?: (.+))?", line):
            places.setdefault(match[3] or match[1], []).append(match[2])
    return "; ".join(f"{what} ({', '.join(dict.fromkeys(at))})" for what, at in places.items())


if __name__ == "__main__":
    main(tyro.cli(Zoo))
