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
        f"We gave every classification network of torchvision and a list of timm's, {len(rows)} in all, to "
        f"`convert.from_torch` unchanged: {len(kinds['sites'])} convert, {len(kinds['refused'])} are refused"
        + (f", {len(kinds['failed'])} failed" if kinds["failed"] else "")
        + f". Of those whose only activation modules are {', '.join(PLAIN[:-1])} or {PLAIN[-1]}, "
        f"{sum(n in kinds['sites'] for n in plain)} of {len(plain)} convert; the rest also compute something else, "
        "such as gates, attention, or max-pooling of values that can be negative."
        + (f" {left} more networks of timm are not measured yet." if left else ""),
        "",
        "Weights are random, and so are the scales and shifts of batch norm, whose statistics come from random images. "
        f"Images have {SMALL} x {SMALL} pixels, or the size that the network was made for if it does not take these. "
        "A network without *activations* has no modules for them: it calls functions instead.",
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
        lines += ["", "## Failed", "", "| network | reason |", "|---|---|"]
        lines += [f"| {name} | {rows[name]['failed']} |" for name in kinds["failed"]]
    return lines
