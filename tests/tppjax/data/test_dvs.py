"""CIFAR10-DVS: recordings of ours, a few events each, in the folders and the formats of the data set."""

import os
import struct
import sys

import numpy as np
import pytest

from tests.tppjax.data import aedat4_files
from tppjax import data
from tppjax.data import dvs, recordings
from tppjax.errors import InputError

NUMBERS = range(2, 12)  # as text, 10 and 11 come first


def events_of(label, number):
    """Two events, by which a recording is known again: on at (label, number), then off at (100, 50)."""
    return [(1_000_000, label, number, 1), (1_000_999, 100, 50, 0)]


def file_of(folder, label, number):
    return folder / "cifar10_dvs" / dvs.CLASSES[label] / f"cifar10_{dvs.CLASSES[label]}_{number}.aedat4"


@pytest.fixture
def folder(tmp_path):
    for label in range(10):
        for number in NUMBERS:
            aedat4_files.write(file_of(tmp_path, label, number), events_of(label, number))
    return tmp_path


@pytest.mark.parametrize("lz4", [False, True])
@pytest.mark.parametrize("table", [False, True])
def test_events_come_back_over_several_packets(tmp_path, lz4, table):
    rng, file = np.random.default_rng(0), tmp_path / "a.aedat4"
    t = 1_500_000_000_000_000 + np.sort(rng.integers(0, 10**6, 100))
    x, y, on = rng.integers(0, 128, 100), rng.integers(0, 128, 100), rng.integers(0, 2, 100)
    aedat4_files.write(file, zip(t, x, y, on, strict=True), packet=30, table=table, lz4=lz4)
    events = recordings.read(file)
    for name, values in {"t": t, "x": x, "y": y, "on": on}.items():
        np.testing.assert_array_equal(events[name], values)


def test_an_event_is_counted_in_its_frame_pixel_and_polarity():
    # 10 microseconds in 3 frames: 0-3, 4-6, 7-9.
    rows = [(70, 5, 90, 1), (73, 5, 90, 1), (74, 5, 90, 1), (76, 90, 5, 0), (77, 127, 0, 0), (79, 0, 127, 1)]
    counts = dvs.count(np.array(rows, recordings.EVENT), frames=3, size=128)
    expected = np.zeros((3, 128, 128, 2), np.uint8)
    expected[0, 90, 5, 1], expected[1, 90, 5, 1], expected[1, 5, 90, 0] = 2, 1, 1
    expected[2, 0, 127, 0], expected[2, 127, 0, 1] = 1, 1
    np.testing.assert_array_equal(counts, expected)


def test_frames_are_exact_where_floats_are_not():
    # 154 microseconds in 10 frames: 77 (10 / 154) is 4.999... in floats.
    counts = dvs.count(np.array([(10**15 + t, 0, 0, 0) for t in range(154)], recordings.EVENT), frames=10, size=1)
    np.testing.assert_array_equal(counts[:, 0, 0, 0], np.bincount([t * 10 // 154 for t in range(154)]))


def test_smaller_sizes_sum_blocks_and_counts_end_at_255():
    rng = np.random.default_rng(0)
    rows = [(t, *rng.integers(0, 128, 2), rng.integers(0, 2)) for t in range(2000)]
    events = np.array(rows, recordings.EVENT)
    whole = dvs.count(events, 4, 128)
    assert whole.sum() == 2000
    blocks = whole.reshape(4, 32, 4, 32, 4, 2).sum((2, 4))
    np.testing.assert_array_equal(dvs.count(events, 4, 32), blocks)
    assert dvs.count(events, 1, 1).tolist() == [[[[255, 255]]]]


def test_nine_of_ten_recordings_of_each_class_train(folder):
    preprocessing = dvs.info("cifar10_dvs", frames=2)
    train, test = (dvs.load("cifar10_dvs", split, folder, preprocessing=preprocessing) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((90, 2, 128, 128, 2), (10, 2, 128, 128, 2))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(10), 9))
    np.testing.assert_array_equal(test.labels, np.arange(10))
    _, frame, y, x, _ = np.nonzero(train.images[..., 1:])
    np.testing.assert_array_equal((frame, x, y), (np.zeros(90), train.labels, np.tile(np.arange(2, 11), 10)))
    np.testing.assert_array_equal(np.nonzero(test.images[..., 1])[2], 11)


def test_only_what_is_chosen_is_read(folder):
    file_of(folder, 0, 2).write_bytes(b"")
    chosen = dvs.load(
        "cifar10_dvs", "train", folder, lambda n: np.arange(n)[[89, 9]], preprocessing=dvs.info("cifar10_dvs", frames=1)
    )
    np.testing.assert_array_equal(chosen.labels, [9, 1])
    np.testing.assert_array_equal(np.nonzero(chosen.images[..., 1])[2:], [(10, 2), (9, 1)])


def test_frames_as_channels(folder):
    still = dvs.info("cifar10_dvs", frames=3, size=64, constant=True)
    assert (still.input_shape, still.frames) == ((64, 64, 6), None)
    one = dvs.load("cifar10_dvs", "test", folder, preprocessing=still).images
    two = dvs.load("cifar10_dvs", "test", folder, preprocessing=dvs.info("cifar10_dvs", frames=3, size=64)).images
    assert one.shape == (10, 64, 64, 6)
    for channel in range(6):
        np.testing.assert_array_equal(one[..., channel], two[:, channel // 2, :, :, channel % 2])


def test_the_network_is_given_counts():
    preprocessing = dvs.info("cifar10_dvs", frames=2, size=16)
    counts = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16, 2), np.uint8)
    np.testing.assert_allclose(preprocessing(counts), counts, rtol=1e-6)


def test_damaged_recordings_are_named_and_refused_or_left_out(folder, capsys):
    preprocessing, good = dvs.info("cifar10_dvs", frames=1), file_of(folder, 0, 2).read_bytes()
    cut, garbage, empty, without, far = (file_of(folder, label, 3) for label in range(5))
    cut.write_bytes(good[:-80])
    garbage.write_bytes(bytes(range(256)) * 8)
    empty.write_bytes(b"")
    aedat4_files.write(without, [])
    aedat4_files.write(far, [(0, 1, 1, 1), (1, 5, 128, 1)])
    with pytest.raises(ValueError, match=r"5 of 90 recordings can't be read completely; .*--skip_damaged") as refusal:
        dvs.load("cifar10_dvs", "train", folder, preprocessing=preprocessing)
    said = {cut: "cut short", garbage: "no AEDAT 4.0 file", empty: "no bytes", without: "no events", far: "y = 128"}
    for file, problem in said.items():
        assert problem in str(refusal.value).split(f"{file}: ")[1].split(";")[0]
    images = dvs.load("cifar10_dvs", "train", folder, preprocessing=preprocessing, skip_damaged=True)
    assert capsys.readouterr().out == (
        f"left out 5 of 90 recordings, which can't be read completely; the first: {cut}: it is cut short or damaged: "
        f"its table should begin at byte {len(good) - 44} of {len(good) - 80}\n"
    )
    # Nobody else moves: five classes lack one, and each image still belongs to its label.
    np.testing.assert_array_equal(np.bincount(images.labels), [8] * 5 + [9] * 5)
    np.testing.assert_array_equal(np.nonzero(images.images[..., 1])[3], images.labels)
    file_of(folder, 5, 3).write_bytes(b"")
    with pytest.raises(ValueError, match=r"6 of 90 .*; and 1 more$") as refusal:
        dvs.load("cifar10_dvs", "train", folder, preprocessing=preprocessing)
    assert str(refusal.value).count(".aedat4: ") == 5
    with pytest.raises(ValueError, match=r"1 of 1 recordings .* none is left"):
        dvs.load("cifar10_dvs", "train", folder, lambda n: [1], preprocessing=preprocessing, skip_damaged=True)


def test_frames_for_which_the_memory_does_not_suffice(folder, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda _: 2**10)  # a MiB
    with pytest.raises(InputError, match=r"the frames of 90 recordings would take .* GiB, .*: ask for fewer frames"):
        dvs.load("cifar10_dvs", "train", folder, preprocessing=dvs.info("cifar10_dvs", frames=20, size=64))


def test_a_bug_is_no_damaged_recording(folder, monkeypatch):
    def fail(_):
        raise ValueError("a bug")

    monkeypatch.setattr(recordings, "read", fail)
    with pytest.raises(ValueError, match=r"^a bug$"):
        dvs.load("cifar10_dvs", "test", folder, preprocessing=dvs.info("cifar10_dvs"), skip_damaged=True)


@pytest.mark.parametrize("lz4", [False, True])
def test_a_file_cut_anywhere_is_never_read_as_whole(tmp_path, lz4):
    file = tmp_path / "a.aedat4"
    aedat4_files.write(file, events_of(3, 4) * 5, packet=4, lz4=lz4)
    whole = file.read_bytes()
    # Of a compressed table only the beginning can be seen; no event is missing then.
    table = len(aedat4_files.TABLE) + 4 + 15 * lz4
    for length in range(len(whole) - table + 1 if lz4 else len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut short|no AEDAT 4\.0 file|no bytes"):
            recordings.read(file)


def test_without_a_table_a_cut_within_a_packet_is_seen(tmp_path):
    file = tmp_path / "a.aedat4"
    aedat4_files.write(file, events_of(3, 4), table=False)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short or damaged: the last packet ends at byte"):
        recordings.read(file)


@pytest.mark.parametrize(("old", "new"), [(b"EVTS", b"FRME"), (bytes.fromhex("04224d18"), bytes(4))])
def test_a_packet_that_cannot_be_unpacked(tmp_path, old, new):
    file = tmp_path / "a.aedat4"
    aedat4_files.write(file, events_of(3, 4), lz4=True)
    header, packet = file.read_bytes().split(b"</dv>")
    file.write_bytes(header + b"</dv>" + packet.replace(old, new, 1))
    with pytest.raises(ValueError, match="it is damaged: "):
        recordings.read(file)


@pytest.mark.parametrize("place", [18, 36, 46, 56, 72, 80])
def test_a_damaged_header_ends_neither_the_process_nor_in_silence(tmp_path, place):
    file = tmp_path / "a.aedat4"
    aedat4_files.write(file, events_of(3, 4))
    damaged = bytearray(file.read_bytes())
    damaged[place] = 0xF0
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        recordings.read(file)


def aedat2(events, header=b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"):
    return header + b"".join(struct.pack(">II", address, t) for address, t in events)


def test_the_older_format(tmp_path):
    file = tmp_path / "a.aedat"
    # Off 3 from the right, 10 from below; on in the upper left corner.
    file.write_bytes(aedat2([(3 << 8 | 10 << 1 | 1, 2**31 + 5), (127 << 8 | 127 << 1, 2**31 + 9)]))
    assert recordings.read(file).tolist() == [(2**31 + 5, 124, 117, 0), (2**31 + 9, 0, 0, 1)]
    for content, problem in [
        (aedat2([(3, 5)])[:-3], "cut short within an event"),
        (aedat2([(1 << 15, 5)]), "events outside of the sensor's 128 x 128 pixels: x = -1"),
        (aedat2([]), "no events"),
        (aedat2([(3, 5)], b"#!AER-DAT3.1\r\n"), r"no AEDAT 2\.0 file: its header has b'#!AER-DAT3\.1"),
        (b"#!AER-DAT2.0", r"no AEDAT 2\.0 file"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            recordings.read(file)


def test_impossible_times():
    events = np.array([(0, 1, 1, 1), (2**40, 1, 1, 1)], recordings.EVENT)
    with pytest.raises(ValueError, match="its times are damaged: from 0 to 1099511627776 microseconds"):
        dvs.count(events, 10, 128)


def test_no_data_is_said_with_folder_and_source(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/cifar10_dvs/CLASS/\*\.aedat4\).*figshare\.com"):
        dvs.load("cifar10_dvs", "train", preprocessing=dvs.info("cifar10_dvs"))
    for name in dvs.CLASSES[1:]:
        aedat4_files.write(tmp_path / "cifar10_dvs" / name / "a_1.aedat4", events_of(0, 0))
    with pytest.raises(FileNotFoundError, match=r"no recordings of airplane in "):
        dvs.load("cifar10_dvs", "train", preprocessing=dvs.info("cifar10_dvs"))


def test_file_names_that_leave_the_split_open(folder):
    def load():
        return dvs.load("cifar10_dvs", "test", folder, preprocessing=dvs.info("cifar10_dvs"))

    bird = folder / "cifar10_dvs" / "bird"
    (bird / "other_2.aedat4").touch()
    with pytest.raises(ValueError, match=r"cifar10_bird_2\.aedat4 and other_2\.aedat4 have the same number"):
        load()
    (bird / "other_2.aedat4").rename(bird / "other.aedat4")
    with pytest.raises(ValueError, match=r"other\.aedat4 has no number"):
        load()
    (bird / "other.aedat4").rename(bird / "other_77.aedat")
    with pytest.raises(ValueError, match=r"both \.aedat4 and \.aedat files"):
        load()


def test_what_info_refuses():
    for options in ({"size": 48}, {"size": 0}, {"frames": 0}, {"frames": 10**9, "constant": True}):
        with pytest.raises(ValueError, match=r"frames are square|recordings have 1 frame|1 to 65536"):
            dvs.info("cifar10_dvs", **options)
    with pytest.raises(ValueError, match="recordings have 1 frame or more, with 2 channels each; got 1 and 3 channels"):
        dvs.load("cifar10_dvs", "train", preprocessing=data.info("cifar10"))


def test_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(ValueError, match=r"^aedat is not installed: pip install 'tppjax\[dvs\]'"):
        dvs.load("cifar10_dvs", "test", folder, preprocessing=dvs.info("cifar10_dvs"), skip_damaged=True)
