"""ImageNet (Russakovsky et al., 2015) in TFDS's layout, read from disk by grain while a network runs.

`python -m tppjax.data.jpegs` prepares it, from the official archives or from folders of your own pictures.
"""

import contextlib
import gc
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tppjax.data import Preprocessing, crops, digest, prepared
from tppjax.errors import InputError, extra

with extra("data"):
    from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = {"train": "train", "test": "validation"}  # TFDS's own "test" has no labels
# Threads of one process decode some 5 pictures at a time, for a fifth of the work holds Python's lock; processes more,
# but they take seconds to start.
LONG, FEW_CORES, MOST = 10_000, 4, 32
FEW_FILES = 64  # open besides the data


def info(
    name="imagenet2012",
    data_dir: str | os.PathLike | None = None,
    *,
    size: int = 224,
    resize: int = 256,
    interpolation: str = "bilinear",
) -> Preprocessing:
    """Input `[size, size, 3]`, mean and standard deviation as torchvision has them, class names of the prepared data.

    Args:
      name: of the data set.
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      size: height and width of the network's input, in pixels.
      resize: the shorter side that pictures are brought to before the centre is cut out.
      interpolation: "bilinear" or "bicubic".

    Raises:
      FileNotFoundError: if there is no prepared data.
      InputError: if it is incomplete or damaged, or `size`, `resize` or `interpolation` can't be.
    """
    resizing = {"resize": resize, "interpolation": interpolation}
    preprocessing = Preprocessing(name, (size, size, 3), MEAN, STD, _folder(name, data_dir).classes(), **resizing)
    crops.check(preprocessing)
    return preprocessing


def load(
    name="imagenet2012",
    split="train",
    data_dir: str | os.PathLike | None = None,
    select=np.arange,
    *,
    preprocessing: Preprocessing,
    workers: int | None = None,
) -> "Stored":
    """Pictures on disk; only those chosen, and read only when they are asked for.

    Args:
      name: of the data set.
      split: "train", or "test", which is TFDS's `validation`.
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      select: from the number of pictures there are to the places of those wanted, in this order.
      preprocessing: what to make of the pictures: input_shape, resize and interpolation.
      workers: processes that decode, handing over in shared memory (/dev/shm); 0 for threads of this one. Unless
        given, one for each CPU core if those are many and much is read, else 0. Changes no pixel.

    Raises:
      FileNotFoundError: if there is no prepared data; names the folder and the command.
      InputError: if it is incomplete or damaged, `preprocessing` does not fit pictures, grain is not installed,
        or too few files may be open.
    """
    folder = _folder(name, data_dir)
    crops.check(preprocessing)
    _grain()
    _allow_open_files(sum(map(len, folder.lengths.values())))
    classes = folder.classes()
    source = folder.records(SPLITS[split], features(classes), len(classes))
    return Stored(source, np.asarray(select(len(source))), preprocessing, workers)


@dataclass(frozen=True, eq=False)
class Stored:
    """Pictures of one split that stay on disk; offers what `Images` offers.

    Attributes:
      source: place to `{"image": JPEG bytes, "label", "file_name"}`, as TFDS reads them.
      indices: whole numbers `[N]`, in `source`, of the pictures that this is.
      preprocessing: what to make of them.
      workers: processes that decode; None chooses.
    """

    source: Sequence
    indices: np.ndarray
    preprocessing: Preprocessing
    workers: int | None = None

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index) -> "Stored":
        return Stored(self.source, self.indices[index], self.preprocessing, self.workers)

    @property
    def images(self) -> np.ndarray:
        """All of them, read into memory anew each time, uint8 `[N, H, W, C]`: for small parts."""
        images = np.empty((len(self), *self.preprocessing.input_shape), np.uint8)
        for i, (pixels, _) in enumerate(self.stream(np.arange(len(self))[:, None])):
            images[i] = pixels[0]
        return images

    @property
    def labels(self) -> np.ndarray:
        """All of them, int32 `[N]`: reads every record, and decodes no picture."""
        return np.array([self.source[place]["label"] for place in self.indices], np.int32)

    def digest(self) -> str:
        """Twelve hexadecimal digits that tell these pictures from others: by their places and form, and two of them."""
        ends = [self.source[place]["image"] for place in self.indices[[0, -1]]]
        options = repr((len(self.source), self.preprocessing)).encode()
        return digest(np.int64(self.indices), *(np.frombuffer(text, np.uint8) for text in (options, *ends)))

    def stream(self, indices, seed=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`(pixels uint8 [B, H, W, C], labels int32 [B])` of each row of `indices` `[steps, B]`, one after another.

        Without `seed`, the shorter side is brought to `preprocessing.resize` and the centre cut out. With it, a random
        part of the picture is brought to size (Szegedy et al., 2015); it depends only on these numbers and the
        picture's index on disk, so a stream may begin with any row.

        Args:
          indices: whole numbers, of pictures in this data set.
          seed: numbers of at least 0 that seed the parts drawn; the same numbers, the same parts.

        Raises:
          InputError: if `indices` has another shape; on the way, if a picture is damaged: names it.
          IndexError: if there are fewer pictures.
        """
        indices = np.asarray(indices)
        if indices.ndim != 2 or not np.issubdtype(indices.dtype, np.integer):
            raise InputError(f"indices are whole numbers [steps, B]; got {indices.dtype} of shape {indices.shape}")
        cores = min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        workers = self.workers
        if workers is None:
            workers = cores if cores > FEW_CORES and indices.size >= LONG else 0
        return _rows(
            _Read(self.source, self.preprocessing, seed), self.indices[indices], workers, 1 if workers else cores
        )


def _rows(read, indices: np.ndarray, workers: int, threads: int):
    """What `read` makes of each row, in order; each process has so many threads."""
    grain = _grain()
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    rows = grain.MapDataset.source(indices).map(read).to_iter_dataset(ahead)
    rows = rows.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_ignore_interrupts)
    # Closed at once when the reader stops early: processes would stay, else, until Python collects them.
    with contextlib.closing(iter(rows)) as rows:
        # Copies, so that shared memory is free again at once.
        yield from (tuple(map(np.array, row)) for row in rows)
    del rows
    if workers:
        gc.collect()  # grain's iterators refer to each other, and the last rows would stay in shared memory


def _ignore_interrupts(*_) -> None:
    """In a process that reads: a Ctrl-C, which the terminal sends to all of them, is for the one that trains alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Read:
    """One row of places to pixels and labels; sent to the processes as it is."""

    source: Sequence
    preprocessing: Preprocessing
    seed: Sequence[int] | None

    def __call__(self, row):
        pixels = np.empty((len(row), *self.preprocessing.input_shape), np.uint8)
        labels = np.empty(len(row), np.int32)
        for i, place in enumerate(row):
            example = self.source[place]
            file = example["file_name"].decode(errors="replace")
            with crops.decoding(f"{file} (record {place} of {self.source!r}) can't be decoded: "):
                picture = Image.open(io.BytesIO(example["image"])).convert("RGB")
            if self.seed is None:
                pixels[i] = crops.centre(picture, self.preprocessing)
            else:
                pixels[i] = crops.drawn(picture, self.preprocessing, np.random.default_rng((*self.seed, place)))
            labels[i] = example["label"]
        return pixels, labels


def features(classes: Sequence[str]):
    """TFDS's description of an example."""
    from tensorflow_datasets import features

    image, label = features.Image(encoding_format="jpeg"), features.ClassLabel(names=classes)
    return features.FeaturesDict({"image": image, "label": label, "file_name": features.Text()})


def _folder(name: str, data_dir) -> prepared.Folder:
    command = "python -m tppjax.data.jpegs --source SOURCE"
    return prepared.newest(name, prepared.root(data_dir), command, mend="")


def _allow_open_files(shards: int) -> None:
    """Raises this process's limit: a shard stays open once read from, and most systems allow 1,024 files at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if most < shards + FEW_FILES:
        raise InputError(
            f"the data's {shards} files are open together while it is read, and the system allows {most} open files: "
            f"raise that with ulimit -Hn {shards + 1024}"
        )
    wanted = min(shards + 1024, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _grain():
    try:
        import grain
        from absl import flags
    except ImportError as e:
        raise InputError("reading pictures from disk needs grain: pip install 'tppjax[imagenet]'") from e
    # Grain asks for flags of its own when it starts processes; absl answers only programs that have parsed theirs.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return grain
