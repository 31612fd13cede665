"""The page of the zoo: what `python -m benchmarks.zoo` writes to docs/zoo.md."""

from typing import Any

SMALL = 64  # pixels per side, if a network takes images of this size
IMAGES, T = 16, 64
PLAIN = ("ReLU", "ReLU6", "Hardtanh")
Rows = dict[str, dict[str, Any]]


def page(about: dict[str, Any], rows: Rows, left: int = 0) -> str:
    """The page; `left` networks are not measured yet."""
    kinds = {kind: [name for name, r in rows.items() if kind in r] for kind in ("sites", "refused", "failed")}
    return "\n".join(_introduction(about, rows, kinds, left) + _tables(rows, kinds)) + "\n"


def _introduction(about: dict[str, Any], rows: Rows, kinds: dict[str, list[str]], left: int) -> list[str]:
    """What the tables show and how they were made."""
    plain = [n for n, r in rows.items() if r.get("activations") and set(r["activations"]) <= set(PLAIN)]
    near = [r["apart"] for r in rows.values() if "apart" in r]
    slowest = max((rows[name]["seconds"] for name in kinds["refused"]), default=0)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [
        "# Networks that convert",
        "",
        f"Every classification network of torchvision and a list of timm's, {len(rows)} in all, given to "
        f"`convert.from_torch` unchanged: {len(kinds['sites'])} convert, {len(kinds['refused'])} are refused"
        + (f", {len(kinds['failed'])} failed" if kinds["failed"] else "")
        + f". Of those whose activation modules are {', '.join(PLAIN[:-1])} or {PLAIN[-1]} only, "
        f"{sum(n in kinds['sites'] for n in plain)} of {len(plain)} convert; the rest compute something else besides, "
        "such as gates, attention, or max-pooling of values that can be negative."
        + (f" {left} more of timm's are still to be measured." if left else ""),
        "",
        "Weights are random, with random scales and shifts in batch norm, whose statistics are those of random images; "
        f"the images have {SMALL} x {SMALL} pixels where a network takes them, else those that it was made for.",
        "",
        "- *apart*: the largest difference between the logits of the traced network and PyTorch's, relative to the "
        f"largest logit, over {IMAGES} images; {max(near, default=0):.1e} at most. `from_torch` refuses "
        "more than 1e-4.",
        f"- *agreement*: of the spiking network, rounded, at T = {T}, with its own ANN: the share of these images for "
        "which both choose the same class; thresholds are the largest activations on them. Random networks choose "
        "nearly at random, so see *error* too: the root mean square of the difference of logits, relative to how far "
        "the ANN's logits lie from their means over the images.",
        f"- *seconds*: until the network was traced, compared with PyTorch, or refused; the slowest refusal took "
        f"{slowest:.1f} s. Other programs ran on the machine.",
        "",
        f"Made by `make zoo` (`{about['command']}`), {about['date']}: {versions}, Python {about['python']}, "
        f"{about['hardware']}.",
        "",
    ]


def _tables(rows: Rows, kinds: dict[str, list[str]]) -> list[str]:
    """The tables of converted, refused and failed networks."""
    lines = [
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
        lines += ["", "## Failed", "", "| network | how |", "|---|---|"]
        lines += [f"| {name} | {rows[name]['failed']} |" for name in kinds["failed"]]
    return lines
