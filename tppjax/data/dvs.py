"""CIFAR10-DVS (Li et al., 2017): CIFAR-10 images that moved before an event camera, 1,000 recordings of each class.

An event says that a pixel became brighter (on) or darker (off). Events are counted in frames; see `load`.
"""

import math
import os
import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tppjax.data import LONGEST, Images, Preprocessing, check_memory, prepared, recordings
from tppjax.errors import InputError

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
DURATION = 2**32  # microseconds, 71 minutes: what a recording's 32 bits of time can tell apart
PUBLISHED = (
    'the data set is published as "CIFAR10-DVS: An Event-Stream Dataset for Object Classification", '
    "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671: unpack its ten archives there; "
    ".aedat files and .aedat4 files are both read"
)


def info(
    name="cifar10_dvs", data_dir=None, *, frames: int = 10, size: int = 128, constant: bool = False
) -> Preprocessing:
    """What a network that sees CIFAR10-DVS is given: counts of events, neither shifted nor scaled.

    Args:
      name: of the data set.
      data_dir: not looked at.
      frames: of equal duration that a recording is divided into.
      size: pixels a side, a divisor of the camera's 128.
      constant: all frames at once as channels, the same at every step, instead of one after the other.

    Returns:
      `Preprocessing` with input shape (size, size, 2) and `frames`, or, if constant, (size, size, 2 frames) and no
      frames.

    Raises:
      InputError: if `frames` or `size` is impossible.
    """
    if not 1 <= frames <= LONGEST // 2:
        raise InputError(f"recordings have 1 frame or more, at most {LONGEST // 2}; got {frames}")
    channels = 2 * frames if constant else 2
    # Pixels are divided by 255 on their way into the network: this standard deviation takes that back.
    statistics = (0.0,) * channels, (1 / 255,) * channels
    preprocessing = Preprocessing(name, (size, size, channels), *statistics, CLASSES, None if constant else frames)
    _frames_and_size(preprocessing)
    return preprocessing


def load(
    name: str = "cifar10_dvs",
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    select=np.arange,
    *,
    preprocessing: Preprocessing,
    skip_damaged: bool = False,
) -> Images:
    """Counts of events in frames: of each class, the first 90 % of the recordings to train, the rest to test.

    Recordings are ordered by class, then by the number in the file's name, damaged or not. A count above 255 is 255.
    Channel 0 counts off events, channel 1 on events; in constant form frame f has the channels 2 f and 2 f + 1.

    Args:
      name: of the data set, and of its folder.
      split: "train" or "test".
      data_dir: where that folder lies [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      select: from the number of recordings there are to the places of those to read, in this order; all by default.
      preprocessing: what `info` gave; says how many frames, how large, and in which form.
      skip_damaged: leaves out recordings that can't be read whole, with a line that counts them.

    Returns:
      Images uint8 `[N, F, H, W, 2]`, in constant form `[N, H, W, 2 F]`, and labels int32 `[N]`.

    Raises:
      FileNotFoundError: if there are no recordings of some class; says where they were looked for.
      InputError: if some are damaged, cut short, empty or of another camera, and names them; or if
        `preprocessing` does not fit.
    """
    frames, size = _frames_and_size(preprocessing)
    files = _files(prepared.root(data_dir) / name, split)
    chosen = [files[int(place)] for place in select(len(files))]
    if any(file.suffix == ".aedat4" for file, _ in chosen):
        recordings.decoder()  # if it is missing, that is said once, not of every file
    check_memory(
        f"the frames of {len(chosen)} recordings", len(chosen) * math.prod(preprocessing.shape), "ask for fewer frames"
    )
    images, labels, damaged = (
        np.empty((len(chosen), *preprocessing.shape), np.uint8),
        np.empty(len(chosen), np.int32),
        {},
    )
    # One after the other: threads were measured to be slower.
    for i, (file, label) in enumerate(tqdm(chosen, desc=f"reading {name} {split}", disable=None, leave=False)):
        try:
            counts = count(recordings.read(file), frames, size)
        except (InputError, OSError) as e:
            damaged[i] = f"{file}: {e}"
            continue
        images[i] = (
            counts.transpose(1, 2, 0, 3).reshape(preprocessing.shape) if preprocessing.frames is None else counts
        )
        labels[i] = label
    if not damaged:
        return Images(images, labels)
    _report(list(damaged.values()), len(chosen), skip_damaged)
    return Images(np.delete(images, list(damaged), 0), np.delete(labels, list(damaged)))


def count(events: np.ndarray, frames: int, size: int) -> np.ndarray:
    """Events in each frame, pixel and polarity, uint8 `[frames, size, size, 2]`; 255 where there are more.

    Frames share the time from the first to the last event, both included, equally: event t, n microseconds after the
    first, belongs to frame `floor(n frames / duration)`. A pixel of a smaller size counts the events of its block.

    Args:
      events: what `recordings.read` gives, at least one.
      frames: how many.
      size: pixels a side, a divisor of 128.

    Raises:
      InputError: if the times are impossible.
    """
    t = events["t"] - events["t"].min()
    if not 0 <= t.min() <= t.max() < DURATION:
        raise InputError(f"its times are damaged: from {events['t'].min()} to {events['t'].max()} microseconds")
    block = recordings.SIDE // size
    frame, y, x = t * frames // (t.max() + 1), events["y"] // block, events["x"] // block
    indices = ((frame * size + y) * size + x) * 2 + events["on"]
    counts = np.bincount(indices, minlength=frames * size * size * 2)
    return np.minimum(counts, 255).astype(np.uint8).reshape(frames, size, size, 2)


def _frames_and_size(preprocessing: Preprocessing) -> tuple[int, int]:
    height, width, channels = preprocessing.input_shape
    frames = channels // 2 if preprocessing.frames is None else preprocessing.frames
    if frames < 1 or channels != (2 * frames if preprocessing.frames is None else 2):
        raise InputError(f"recordings have 1 frame or more, with 2 channels each; got {frames} and {channels} channels")
    if height != width or height < 1 or recordings.SIDE % height:
        raise InputError(f"frames are square, of a size that divides {recordings.SIDE}; got {height} x {width}")
    return frames, height


def _files(folder: Path, split: str) -> list[tuple[Path, int]]:
    """Recordings of one split, with their labels."""
    of_class = {name: [f for s in recordings.SUFFIXES for f in (folder / name).glob(f"*{s}")] for name in CLASSES}
    if missing := [name for name, files in of_class.items() if not files]:
        raise FileNotFoundError(
            f"no recordings of {', '.join(missing)} in {folder} (looked for {folder}/CLASS/*.aedat4); {PUBLISHED}"
        )
    # The two forms need not be the same way up.
    if len({file.suffix for files in of_class.values() for file in files}) > 1:
        raise InputError(f"{folder} holds both .aedat4 and .aedat files; keep one kind")
    chosen = []
    for label, files in enumerate(of_class.values()):
        numbered = _by_number(files)
        cut = len(numbered) * 9 // 10
        chosen += [(file, label) for file in (numbered[:cut] if split == "train" else numbered[cut:])]
    return chosen


def _by_number(files: list[Path]) -> list[Path]:
    numbered = {}
    for file in sorted(files):
        number = re.search(r"\d+$", file.stem)
        if number is None:
            raise InputError(f"{file} has no number at the end of its name; recordings are called CLASS_NUMBER.aedat4")
        other = numbered.setdefault(int(number[0]), file)
        if other is not file:
            raise InputError(f"{other} and {file.name} have the same number; keep one")
    return [numbered[number] for number in sorted(numbered)]


def _report(damaged: list[str], of: int, skip: bool) -> None:
    if skip and len(damaged) < of:
        print(f"left out {len(damaged)} of {of} recordings, which can't be read whole; the first: {damaged[0]}")
        return
    remedy = "none is left" if skip else "get them anew, or go on without them with --skip_damaged"
    more = f"; and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    raise InputError(f"{len(damaged)} of {of} recordings can't be read whole; {remedy}: {'; '.join(damaged[:5])}{more}")
