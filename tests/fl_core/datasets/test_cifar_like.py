"""The stand-in for CIFAR10: its shape, that it never changes, and that there is something to learn in it."""

from __future__ import annotations

import hashlib

import torch

from fl_core.datasets import cifar_like


def test_it_has_cifars_shape() -> None:
    """3x32x32 float32 around 0 with deviation 1, ten classes in equal numbers, one test set."""
    data = cifar_like.load(train=500, test=100)
    inputs, labels = data.train
    assert data.test is not None
    assert (inputs.shape, inputs.dtype, labels.dtype) == ((500, 3, 32, 32), torch.float32, torch.int64)
    assert torch.bincount(labels).tolist() == [50] * 10
    assert torch.bincount(data.test[1]).tolist() == [10] * 10
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


def test_it_is_the_same_for_ever() -> None:
    """The bytes are fixed; a larger set begins with other pictures than the test set has."""
    data = cifar_like.load(train=40, test=20)
    assert data.test is not None
    pixels = (data.train[0] * 48 + 128).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "8c2ff9980285ab95d35d4d3528408963a8f7f478a0536036e36ebc447809b1c3"
    assert not torch.equal(data.train[0][:20], data.test[0])


def test_it_can_be_learnt_but_not_at_a_glance() -> None:
    """The nearest mean of a class, over all ways to move it, recognises most pictures; a linear rule far fewer."""
    data = cifar_like.load(train=2000, test=200)
    assert data.test is not None
    (inputs, labels), (tests, wanted) = data.train, data.test
    waves = torch.from_numpy(cifar_like._waves()).float()
    moved = torch.stack(
        [waves.roll((i, j), dims=(2, 3)) for i in range(-6, 7) for j in range(-6, 7)], dim=1
    )  # [10, 169, 3, 32, 32]
    scores = torch.einsum("kmchw,nchw->nkm", moved, tests).amax(dim=2)
    assert float((scores.argmax(dim=1) == wanted).float().mean()) > 0.95
    means = torch.stack([inputs[labels == k].mean(dim=0) for k in range(10)])
    linear = torch.einsum("kchw,nchw->nk", means, tests).argmax(dim=1)
    assert float((linear == wanted).float().mean()) < 0.8


def test_noise_is_an_option() -> None:
    """Without noise, pictures of one class differ by where and how strong they are, and by rounding, alone."""
    inputs = cifar_like.load(train=20, test=1, noise=0.0).train[0]
    spectrum = torch.fft.fft2(inputs.double()).abs()
    first, second = spectrum[0].flatten()[1:], spectrum[10].flatten()[1:]
    assert float(first @ second / (first.norm() * second.norm())) > 0.98
    assert float(first @ spectrum[1].flatten()[1:] / (first.norm() * spectrum[1].flatten()[1:].norm())) < 0.9
