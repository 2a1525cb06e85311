"""The character LSTM of LEAF's Shakespeare (Caldas et al. 2018, 1812.01097; McMahan et al. 2017, 1602.05629): an
embedding of 8 numbers, two LSTM layers of 256 units, and a linear layer from the last output to the vocabulary.

820,522 parameters for a vocabulary of 90, which is what Reddi et al. (ICLR 2021, 2003.00295) print for theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fl_core.errors import PlugInError
from fl_core.options import Count


def build(
    *,
    inputs: tuple[int, ...],
    outputs: int,
    embedding: Count = 8,
    hidden: Count = 256,
    layers: Count = 2,
) -> nn.Module:
    """Characters `[m, length]`, whole numbers below `outputs`, to scores `[m, outputs]` of the character after them.

    Args:
        embedding: numbers a character.
        hidden: units of an LSTM layer.
        layers: how many.

    Raises:
        PlugInError: a sample is no sequence.
    """
    if len(inputs) != 1:
        shape = "x".join(map(str, inputs))
        raise PlugInError(f'the model "lstm" needs sequences of characters, not samples of {shape}')
    return _CharacterLstm(outputs, embedding, hidden, layers)


class _CharacterLstm(nn.Module):
    """One bias a gate, as in the papers: torch's second one stays 0. The forget gates' starts at 1, as LEAF has it."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_hh"):
                parameter.requires_grad_(False).zero_()
            elif name.startswith("bias_ih"):
                with torch.no_grad():
                    parameter.zero_()[hidden : 2 * hidden] = 1.0  # torch's order: input, forget, cell, output

    def forward(self, characters: Tensor) -> Tensor:
        """`[m, length]` of any integer type to `[m, vocabulary]`."""
        outputs, _ = self.lstm(self.embedding(characters.long()))
        scores: Tensor = self.head(outputs[:, -1])
        return scores
