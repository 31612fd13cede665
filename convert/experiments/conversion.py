"""The spiking versions of a network, with thresholds and corrections chosen by the options of an experiment."""

import functools

import numpy as np

import convert
from convert.checks import check_thresholds, neurons_of
from convert.correction import check_correction
from convert.experiments.options import Experiment
from tppjax import calibration, data
from tppjax.histogram import Histogram
from tppjax.neurons import Neuron
from tppjax.types import Array

Mode = str | Neuron | dict[str, str | Neuron]


class Conversion:
    """Makes spiking versions of one network.

    Observing activations, calibrating and correcting take minutes on large networks, so each result is kept.

    Attributes:
      network: the network before conversion.
      training: the training images on which thresholds and corrections are chosen; None if none are chosen.
    """

    def __init__(self, network: convert.Network, training: data.Examples | None, config: Experiment):
        self.network, self.training, self._config = network, training, config
        self._prepared: dict[tuple[int, str | Neuron, str | None], convert.Network] = {}

    def snn(self, T: int, mode: Mode, prepared_for: str | None = None, correct: str | None = "") -> convert.Snn:
        """The spiking version of the network.

        Args:
          T: number of time steps.
          mode: the neurons, as `convert.to_snn` takes them.
          prepared_for: the mode for which thresholds and corrections are chosen; by default `mode`, which must then
            not be a dictionary.
          correct: the method of correction; None for no correction, "" for the method in the options.
        """
        correct = self._config.correct if correct == "" else correct
        prepared_mode = prepared_for or mode
        assert not isinstance(prepared_mode, dict)
        return convert.to_snn(self._network(T, prepared_mode, correct), T, mode)

    def _network(self, T: int, mode: str | Neuron, correct: str | None) -> convert.Network:
        """The network with thresholds and corrections for a mode and T."""
        if (T, mode, correct) not in self._prepared:
            network, config = self.network, self._config
            if config.calibrate:
                network = convert.calibrate(
                    *(network, self._training_images(), config.calibrate, config.per),
                    T=T,
                    mode=mode,
                    percentile=config.percentile,
                    observed=self._observed,
                )
            if correct:
                network = convert.correct(
                    *(network, self._training_images()),
                    T=T,
                    mode=mode,
                    method=correct,
                    progress=f"correcting {mode} T={T}",
                )
            self._prepared[T, mode, correct] = network
        return self._prepared[T, mode, correct]

    def _training_images(self) -> Array:
        assert self.training is not None  # `set_up` loads them if anything is to be chosen on them
        return self.training.images

    @functools.cached_property
    def _observed(self) -> dict[str, Histogram]:
        """Histograms of the network's activations on the training images."""
        return calibration.observe(self.network, self._training_images())


def check(network: convert.Network, config: Experiment, modes: tuple[str, ...]) -> None:
    """Raises InputError at once for everything that a conversion would refuse later, after hours of computation."""
    if config.calibrate:
        calibration.check_untrained(network)
        network = network.replace(thetas=dict.fromkeys(network.sites, np.float32(1)) | network.thetas)
    check_thresholds(network)
    steps = np.ravel(vars(config).get("T", ())).tolist()  # none for all studies, of which each has its own
    for mode in modes:
        neurons = neurons_of(mode, network)
        if config.correct:
            check_correction(config.correct, network, neurons.values())
        for T in steps:
            convert.to_snn(network, T, mode)
