"""The recipe of the demo: scikit-learn's handwritten digits, which ship with the package."""

from dataclasses import dataclass
from pathlib import Path

from configs.training import Training


@dataclass(frozen=True)
class Digits(Training):
    """Train a small VGG on the embedded 8x8 digits, in about half a minute.

    python -m train.digits --act qcfs --out runs/digits
    """

    out: Path = Path("runs/digits")
    lr: float = 0.05
    epochs: int = 30
    batch_size: int = 64
    validation: int = 137
