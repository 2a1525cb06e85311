"""What models of pictures share: the refusal of what is none, and an initialisation of convolutions."""

from __future__ import annotations

from torch import nn

from fl_core.errors import PlugInError


def check_picture(inputs: tuple[int, ...], model: str, smallest: int = 1) -> None:
    """Raise PlugInError unless a sample is (channels, height, width) of at least `smallest` pixels each way."""
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        shape = "x".join(map(str, inputs))
        least = f" of at least {smallest}x{smallest}" if smallest > 1 else ""
        raise PlugInError(f'the model "{model}" needs pictures (channels, height, width){least}, not {shape}')


def initialise_convolution(layer: nn.Conv2d) -> None:
    """Normal weights that keep the variance backwards through ReLU (He et al. 2015, 1502.01852), bias 0."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


__all__ = ["check_picture", "initialise_convolution"]
