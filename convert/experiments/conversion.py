"""A network's spiking versions, with thresholds and corrections chosen as the options of an experiment say."""

import numpy as np

import convert
from convert.checks import check_thresholds, neurons_of
from convert.correction import check_method
from convert.experiments.options import Experiment
from tppjax import calibration, data
from tppjax.neurons import Neuron

Mode = str | Neuron | dict[str, str | Neuron]


class Conversion:
    """Makes spiking versions of one network.

    Observing activations, calibrating and correcting take minutes on large networks, so each result is kept.

    Attributes:
      network: the network.
      training: training images that thresholds and corrections are chosen on; None if nothing is.
    """

    def __init__(self, network: convert.Network, training: data.Images | None, config: Experiment):
        self.network, self.training, self._config = network, training, config
        self._histograms: dict | None = None
        self._prepared: dict[tuple, convert.Network] = {}

    def snn(self, T: int, mode: Mode, prepared_for: str | None = None, correct: str | None = "") -> convert.Snn:
        """The spiking version of the network.

        Args:
          T: number of time steps.
          mode: neurons, as `convert.to_snn` takes them.
          prepared_for: the mode that thresholds and corrections are chosen for, if it is not `mode`.
          correct: what is corrected; None for nothing, "" for what the options say.
        """
        correct = self._config.correct if correct == "" else correct
        return convert.to_snn(self._network(T, prepared_for or mode, correct), T, mode)

    def _network(self, T: int, mode: str, correct: str | None) -> convert.Network:
        """The network with thresholds and corrections for a mode and T."""
        if (T, mode, correct) not in self._prepared:
            network, config = self.network, self._config
            if config.calibrate:
                options = {"percentile": config.percentile, "observed": self._observed()}
                images = self.training.images
                network = convert.calibrate(network, images, config.calibrate, config.per, T=T, mode=mode, **options)
            if correct:
                options = {"method": correct, "progress": f"correcting {mode} T={T}"}
                network = convert.correct(network, self.training.images, T=T, mode=mode, **options)
            self._prepared[T, mode, correct] = network
        return self._prepared[T, mode, correct]

    def _observed(self) -> dict:
        """Histograms of the network's activations on the training images."""
        if self._histograms is None:
            self._histograms = calibration.observe(self.network, self.training.images)
        return self._histograms


def check(network: convert.Network, config: Experiment, modes: tuple[str, ...]) -> None:
    """Raises InputError now for all that a conversion would refuse later, perhaps after the first modes ran an hour."""
    if config.calibrate:
        calibration.check_untrained(network)
        network = network.replace(thetas=dict.fromkeys(network.sites, np.float32(1)) | network.thetas)
    check_thresholds(network)
    for mode in modes:
        neurons = neurons_of(mode, network)
        if config.correct:
            check_method(config.correct, neurons.values())
