"""Histograms of activations per channel: one pass, bounded memory, independent of the order of the images."""

import numpy as np

BINS = 2048  # over a range of at most twice the maximum, so thresholds are exact to a thousandth of it


class Histogram:
    """Counts of each channel's positive values in `BINS` equal bins from 0 to `top`, a power of two.

    When a value exceeds `top`, the range doubles and neighbouring bins merge, so counts and range do not depend on the
    order of the values.

    Attributes:
      n: number of values of each channel, including those that are not positive.
      largest: the largest value of each channel, `[C]`; 0 if none is positive.
      top: upper end of each channel's range, `[C]`, above `largest`.
      counts: number of values in each bin, `[C, BINS]`.
    """

    def __init__(self, channels: int) -> None:
        self.n = 0
        self.largest = np.zeros(channels)
        self.top = np.full(channels, 2.0**-126)
        self.counts = np.zeros((channels, BINS), np.int64)

    def add(self, x: np.ndarray) -> None:
        """Counts the values `[..., C]`."""
        x = x.reshape(-1, x.shape[-1])
        self.n += len(x)
        self.largest = np.maximum(self.largest, x.max(axis=0))
        self._grow()
        bins = (np.maximum(x, 0) * (BINS / self.top)).astype(np.int32)
        flat = (bins + BINS * np.arange(x.shape[1]))[x > 0]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def _grow(self) -> None:
        needed = np.where(self.largest > 0, np.ldexp(1.0, np.frexp(self.largest)[1]), 0)
        for c in np.flatnonzero(needed > self.top):
            factor = int(min(needed[c] / self.top[c], BINS))
            merged = self.counts[c].reshape(-1, factor).sum(axis=1)
            self.counts[c] = np.pad(merged, (0, BINS - len(merged)))
            self.top[c] = needed[c]

    def pooled(self) -> "Histogram":
        """One histogram of all channels."""
        whole = Histogram(1)
        whole.n, whole.largest[0] = self.n * len(self.top), self.largest.max()
        whole.top[0] = self.top.max()
        for c, top in enumerate(self.top):
            factor = int(min(whole.top[0] / top, BINS))
            merged = self.counts[c].reshape(-1, factor).sum(axis=1)
            whole.counts[0, : len(merged)] += merged
        return whole

    def values(self) -> np.ndarray:
        """The middle of each bin, `[C, BINS]`."""
        return (np.arange(BINS) + 0.5) / BINS * self.top[:, None]

    def percentile(self, q: float) -> np.ndarray:
        """The value that `q` percent of all values do not exceed, `[C]`, up to one bin too high; 0 if not positive."""
        above = np.floor(self.n * (100 - q) / 100 + 1e-6)  # the number of values that may exceed it
        exceed = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]  # values in this bin or higher ones
        bins = (exceed > above).sum(axis=1)  # as many bins from below still have too many above them
        return np.minimum(bins / BINS * self.top, self.largest)
