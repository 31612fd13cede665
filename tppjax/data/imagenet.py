"""ImageNet (Russakovsky et al., 2015) in TFDS's layout, which grain reads from disk while a network runs.

`python -m tppjax.data.jpegs` prepares it, from the official archives or from folders of your own pictures.
"""

import contextlib
import gc
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from tppjax.data import Examples, Preprocessing, crops, digest, prepared
from tppjax.errors import InputError, extra, refusing
from tppjax.types import DataDir, Select

with extra("data"):
    from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = {"train": "train", "test": "validation"}  # TFDS's own "test" has no labels
# Threads of one process decode about 5 pictures at a time, since a fifth of the work holds Python's lock. Processes
# decode more, but take seconds to start.
LONG, FEW_CORES, MOST = 10_000, 4, 32
FEW_FILES = 64  # number of other files that may be open


def info(
    name: str, data_dir: DataDir = None, *, size: int = 224, resize: int = 256, interpolation: str = "bilinear"
) -> Preprocessing:
    """The form of a network's input: `[size, size, 3]`, torchvision's statistics, class names of the prepared data.

    Args:
      name: name of the data set.
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      size: height and width of the network's input, in pixels.
      resize: length in pixels to which the shorter side of pictures is resized before the centre is cut out.
      interpolation: "bilinear" or "bicubic".

    Raises:
      FileNotFoundError: if there is no prepared data.
      InputError: if it is incomplete or damaged, or `size`, `resize` or `interpolation` is impossible.
    """
    classes = _folder(name, data_dir).classes()
    preprocessing = Preprocessing(name, (size, size, 3), MEAN, STD, classes, resize=resize, interpolation=interpolation)
    crops.check(preprocessing)
    return preprocessing


def load(
    name: str,
    split: str,
    data_dir: DataDir = None,
    select: Select = np.arange,
    *,
    preprocessing: Preprocessing,
    workers: int | None = None,
) -> "Stored":
    """The selected pictures, which stay on disk until they are used.

    Args:
      name: name of the data set.
      split: "train", or "test", which is TFDS's `validation`.
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      select: function from the number of pictures to the indices of those to use, in this order.
      preprocessing: the form of the network's input: input_shape, resize and interpolation.
      workers: number of processes that decode and pass pictures in shared memory (/dev/shm); 0 for threads of this
        process. By default one per CPU core if there are many cores and many pictures, else 0. Changes no pixel.

    Raises:
      FileNotFoundError: if there is no prepared data; names the folder and the command.
      InputError: if it is incomplete or damaged, `preprocessing` does not fit pictures, grain is not installed, or the
        system allows too few open files.
    """
    folder = _folder(name, data_dir)
    crops.check(preprocessing)
    _grain()
    _allow_open_files(sum(map(len, folder.lengths.values())))
    classes = folder.classes()
    source = folder.records(SPLITS[split], features(classes), len(classes))
    return Stored(source, np.asarray(select(len(source))), preprocessing, workers)


@dataclass(frozen=True, eq=False)
class Stored(Examples):
    """Pictures of one split that stay on disk, with the methods of `Images`.

    Attributes:
      source: the records `{"image": JPEG bytes, "label", "file_name"}`, as TFDS reads them.
      indices: indices in `source` of these pictures, whole numbers `[N]`.
      preprocessing: the form of the network's input.
      workers: number of processes that decode; None for the default of `load`.
    """

    source: Sequence
    indices: Integer[np.ndarray, "n"]
    preprocessing: Preprocessing
    workers: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> "Stored":
        return Stored(self.source, self.indices[index], self.preprocessing, self.workers)

    @property
    def images(self) -> UInt8[np.ndarray, "n height width channels"]:
        """All pictures, uint8 `[N, H, W, C]`; they are read into memory each time, so this is for small parts."""
        images = np.empty((len(self), *self.preprocessing.input_shape), np.uint8)
        for i, (pixels, _) in enumerate(self.stream(np.arange(len(self))[:, None])):
            images[i] = pixels[0]
        return images

    @property
    def labels(self) -> Int32[np.ndarray, "n"]:
        """All labels, int32 `[N]`: this reads every record, but decodes no picture."""
        return np.array([self.source[index]["label"] for index in self.indices], np.int32)

    def digest(self) -> str:
        """Twelve hexadecimal digits that identify these pictures: from indices, form, and first and last picture."""
        ends = [self.source[index]["image"] for index in (*self.indices[:1], *self.indices[-1:])]
        options = repr((len(self.source), self.preprocessing)).encode()
        bytes_ = (np.frombuffer(text, np.uint8) for text in (options, *ends))
        return digest(np.asarray(self.indices, np.int64), *bytes_)

    def stream(
        self, indices: Any, seed: tuple[int, ...] | None = None
    ) -> Iterator[tuple[UInt8[np.ndarray, "batch height width channels"], Int32[np.ndarray, "batch"]]]:
        """`(pixels uint8 [B, H, W, C], labels int32 [B])` of each row of `indices` `[steps, B]`, one row after another.

        Without `seed`, the shorter side is resized to `preprocessing.resize` and the centre cut out. With it, a random
        part of the picture is resized (Szegedy et al., 2015); the part depends only on these numbers and the picture's
        index on disk, so a stream may begin with any row.

        Args:
          indices: indices of pictures in this data set, whole numbers.
          seed: numbers of at least 0 that seed the random parts; equal numbers give equal parts.

        Raises:
          InputError: if `indices` has another shape, or, during the iteration, if a picture is damaged: names it.
          IndexError: if there are fewer pictures.
        """
        indices = np.asarray(indices)
        if indices.ndim != 2 or not np.issubdtype(indices.dtype, np.integer):
            raise InputError(f"indices are whole numbers [steps, B]; got {indices.dtype} of shape {indices.shape}")
        cores = min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        workers = self.workers
        if workers is None:
            workers = cores if cores > FEW_CORES and indices.size >= LONG else 0
        read = partial(_read, self.source, self.preprocessing, seed)
        return _rows(read, self.indices[indices], workers, 1 if workers else cores)


def _rows(read: Callable, indices: Any, workers: int, threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`read(row)` for each row, in order; each process has so many threads."""
    grain = _grain()
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    rows = grain.MapDataset.source(indices).map(read).to_iter_dataset(ahead)
    rows = rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_ignore_interrupts)
    # Closed immediately if the reader stops early: otherwise processes would stay until Python collects them.
    with contextlib.closing(iter(rows)) as rows:
        # Copies, so that shared memory is freed immediately.
        yield from ((np.array(pixels), np.array(labels)) for pixels, labels in rows)
    del rows
    if workers:
        gc.collect()  # grain's iterators refer to each other, and the last rows would stay in shared memory


def _ignore_interrupts(*_: Any) -> None:
    """Makes a process that reads ignore Ctrl-C, which the terminal sends to all, for the training process to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read(
    source: Sequence, preprocessing: Preprocessing, seed: Sequence[int] | None, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels and labels of one row of indices."""
    pixels, labels = np.empty((len(row), *preprocessing.input_shape), np.uint8), np.empty(len(row), np.int32)
    for i, index in enumerate(row):
        example = source[index]
        file = example["file_name"].decode(errors="replace")
        with refusing(f"{file} (record {index} of {source!r}) can't be decoded"):
            picture = Image.open(io.BytesIO(example["image"])).convert("RGB")
        if seed is None:
            part = crops.centre(picture, preprocessing)
        else:
            part = crops.drawn(picture, preprocessing, np.random.default_rng((*seed, index)))
        pixels[i], labels[i] = np.asarray(part), example["label"]
    return pixels, labels


def features(classes: Sequence[str]) -> Any:
    """TFDS's description of an example."""
    from tensorflow_datasets import features

    image, label = features.Image(encoding_format="jpeg"), features.ClassLabel(names=classes)
    return features.FeaturesDict({"image": image, "label": label, "file_name": features.Text()})


def _folder(name: str, data_dir: DataDir) -> prepared.Folder:
    command = "python -m tppjax.data.jpegs --source SOURCE"
    return prepared.newest(name, prepared.root(data_dir), command, mend="")


def _allow_open_files(shards: int) -> None:
    """Raises the limit of this process: shards stay open once used, and most systems allow 1,024 files at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if most < shards + FEW_FILES:
        raise InputError(
            f"the {shards} files of the data are open together while it is read, and the system allows {most} open "
            f"files: raise that with ulimit -Hn {shards + 1024}"
        )
    limit = min(shards + 1024, most)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _grain() -> Any:
    with extra("imagenet"):
        import grain
        from absl import flags
    # Grain reads flags of its own when it starts processes; absl allows that only after a program has parsed its flags.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return grain
