"""CIFAR10-DVS (Li et al., 2017): CIFAR-10 images that moved before an event camera, 1,000 recordings of each class.

An event says that a pixel became brighter (on) or darker (off). Events are counted in frames; see `load`.
"""

import math
import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from tppjax.data import LONGEST, Images, Preprocessing, check_memory, prepared, recordings
from tppjax.errors import InputError
from tppjax.types import DataDir, Select

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
DURATION = 2**32  # microseconds, 71 minutes: what a recording's 32 bits of time can tell apart
PUBLISHED = (
    'the data set is published as "CIFAR10-DVS: An Event-Stream Dataset for Object Classification", '
    "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671: unpack its ten archives there; "
    ".aedat files and .aedat4 files are both read"
)


def info(
    name: str, data_dir: DataDir = None, *, frames: int = 10, size: int = 128, constant: bool = False
) -> Preprocessing:
    """The form of the input of a network for CIFAR10-DVS: counts of events, neither shifted nor scaled.

    Args:
      name: name of the data set.
      data_dir: not used.
      frames: number of frames, of equal duration, into which a recording is divided.
      size: height and width in pixels, a divisor of the camera's 128.
      constant: whether all frames are channels of one image, the same at every step, instead of a sequence.

    Returns:
      `Preprocessing` with input shape (size, size, 2) and `frames`, or, if constant, (size, size, 2 frames) and no
      frames.

    Raises:
      InputError: if `frames` or `size` is impossible.
    """
    if not 1 <= frames <= LONGEST // 2:
        raise InputError(f"recordings have 1 frame or more, at most {LONGEST // 2}; got {frames}")
    channels = 2 * frames if constant else 2
    # Pixels are divided by 255 on their way into the network: this standard deviation undoes that.
    statistics = (0.0,) * channels, (1 / 255,) * channels
    preprocessing = Preprocessing(name, (size, size, channels), *statistics, CLASSES, None if constant else frames)
    _frames_and_size(preprocessing)
    return preprocessing


def load(
    name: str,
    split: str,
    data_dir: DataDir = None,
    select: Select = np.arange,
    *,
    preprocessing: Preprocessing,
    skip_damaged: bool = False,
) -> Images:
    """Counts of events in frames: the first 90 % of the recordings of each class to train, the rest to test.

    Recordings are ordered by class, then by the number in the file's name, damaged or not. A count above 255 is 255.
    Channel 0 counts off events, channel 1 on events; in constant form frame f has the channels 2 f and 2 f + 1.

    Args:
      name: name of the data set, and of its folder.
      split: "train" or "test".
      data_dir: parent of that folder [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      select: function from the number of recordings to the indices of those to read, in this order; all by default.
      preprocessing: what `info` returned, with the number, size and form of the frames.
      skip_damaged: whether to leave out recordings that can't be read completely, with a line that counts them.

    Returns:
      Images uint8 `[N, F, H, W, 2]`, in constant form `[N, H, W, 2 F]`, and labels int32 `[N]`.

    Raises:
      FileNotFoundError: if a class has no recordings; says where they were looked for.
      InputError: if recordings, which it names, are damaged, cut short, empty or of another camera; or if
        `preprocessing` does not fit.
    """
    _frames_and_size(preprocessing)  # which refuses what does not fit
    files = _files(prepared.root(data_dir) / name, split)
    files = [files[int(index)] for index in select(len(files))]
    if any(file.suffix == ".aedat4" for file, _ in files):
        recordings.decoder()  # if it is missing, one error says so, not one per file
    check_memory(
        f"the frames of {len(files)} recordings", len(files) * math.prod(preprocessing.shape), "ask for fewer frames"
    )
    images, damaged = _read([file for file, _ in files], preprocessing, f"{name} {split}")
    labels = np.array([label for _, label in files], np.int32)
    if damaged:
        _report(list(damaged.values()), len(files), skip_damaged)
        images, labels = np.delete(images, list(damaged), 0), np.delete(labels, list(damaged))
    return Images(images, labels)


def _read(files: list[Path], preprocessing: Preprocessing, name: str) -> tuple[np.ndarray, dict[int, str]]:
    """The images of the files, and by index what is wrong with those that can't be read."""
    images, damaged = np.empty((len(files), *preprocessing.shape), np.uint8), {}
    frames, size = _frames_and_size(preprocessing)
    # One after the other: threads were measured to be slower.
    for i, file in enumerate(tqdm(files, desc=f"reading {name}", disable=None, leave=False)):
        try:
            counts = count(recordings.read(file), frames, size)
        except (InputError, OSError) as e:
            damaged[i] = f"{file}: {e}"
            continue
        constant = preprocessing.frames is None
        images[i] = counts.transpose(1, 2, 0, 3).reshape(preprocessing.shape) if constant else counts
    return images, damaged


def count(events: np.ndarray, frames: int, size: int) -> UInt8[np.ndarray, "{frames} {size} {size} 2"]:
    """Events in each frame, pixel and polarity, uint8 `[frames, size, size, 2]`; 255 where there are more.

    Frames divide the time from the first to the last event, both included, equally: an event n microseconds after the
    first belongs to frame `floor(n frames / duration)`. A pixel of a smaller size counts the events of its block.

    Args:
      events: the events, at least one, as `recordings.read` returns them.
      frames: number of frames.
      size: height and width in pixels, a divisor of 128.

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
    by_class = {name: [f for s in recordings.SUFFIXES for f in (folder / name).glob(f"*{s}")] for name in CLASSES}
    if missing := [name for name, files in by_class.items() if not files]:
        raise FileNotFoundError(
            f"no recordings of {', '.join(missing)} in {folder} (looked for {folder}/CLASS/*.aedat4); {PUBLISHED}"
        )
    # Images of the two formats need not have the same orientation.
    if len({file.suffix for files in by_class.values() for file in files}) > 1:
        raise InputError(f"{folder} holds both .aedat4 and .aedat files; keep one kind")
    labelled = []
    for label, files in enumerate(by_class.values()):
        numbered = _by_number(files)
        cut = len(numbered) * 9 // 10
        labelled += [(file, label) for file in (numbered[:cut] if split == "train" else numbered[cut:])]
    return labelled


def _by_number(files: list[Path]) -> list[Path]:
    numbered: dict[int, Path] = {}
    for file in sorted(files):
        number = re.search(r"\d+$", file.stem)
        if number is None:
            raise InputError(f"{file} has no number at the end of its name; recordings are called CLASS_NUMBER.aedat4")
        other = numbered.setdefault(int(number[0]), file)
        if other is not file:
            raise InputError(f"{other} and {file.name} have the same number; keep one")
    return [numbered[number] for number in sorted(numbered)]


def _report(damaged: list[str], total: int, skip: bool) -> None:
    numbers = f"{len(damaged)} of {total} recordings"
    if skip and len(damaged) < total:
        print(f"left out {numbers}, which can't be read completely; the first: {damaged[0]}")
        return
    remedy = "none is left" if skip else "get them again, or leave them out with --skip_damaged"
    more = f"; and {len(damaged) - 5} more" if len(damaged) > 5 else ""
    raise InputError(f"{numbers} can't be read completely; {remedy}: {'; '.join(damaged[:5])}{more}")
