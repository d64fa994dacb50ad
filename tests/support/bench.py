"""A clock that the tests of `fsam bench` move by hand, a tiny network, and a SAM written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fsam_cli.measure.bench import race as race_
from fsam_cli.measure.bench import sections
from fsam_cli.measure.bench.network import BenchMethod, BenchProtocol
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.models._contract import Model

CPU = torch.device("cpu")
SGD, SAM = BenchMethod("sgd", "sgd", Sgd()), BenchMethod("sam", "sam", Sam())


@pytest.fixture(autouse=True)
def one_thread():
    with race_.threads(1):
        yield


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    monkeypatch.setattr(race_, "_preemptions", lambda: 0)


@pytest.fixture(autouse=True)
def eager_only(monkeypatch):
    monkeypatch.setattr(
        sections, "why_not_compiled", lambda asked, device: "switched off by a test"
    )


class Clock:
    """Stands still unless it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def task(self, seconds, log=None, name=None):
        """Something that takes so long."""

        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


class Ticking:
    """A second later every time it is read: whatever is timed takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def three_rounds(clock=None):
    """Of a race on the CPU; without a clock everything takes a second."""
    return race_.Timing(CPU, clock or Ticking(), 0.0, rounds=3)


class Tiny(Model):
    """A convolution, a norm and a linear layer on 3x32x32 images."""

    def build(self, *, channels, classes, image_size):
        layers = [nn.Conv2d(channels, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * (image_size // 4) ** 2, classes))


class Broken(Model):
    """Cannot be built."""

    def build(self, *, channels, classes, image_size):
        raise ValueError("no such layer")


class Dropping(Tiny):
    """Draws random numbers in every pass."""

    def build(self, **shape):
        return nn.Sequential(nn.Dropout(0.5), super().build(**shape))


WEIGHTS = 4 * 27 + 4 + 4 + 4 + 256 * 10 + 10
PADDED = 128 + 64 + 64 + 64 + 2560 + 64  # every parameter begins at a multiple of 64 floats
TINY = BenchProtocol({"tiny": Tiny()}, (SGD, SAM))


class ByHand:
    """SAM and SGD as the papers write them; `wrong` names what it leaves out."""

    def __init__(self, parameters, setting, wrong=""):
        self.parameters, self.setting, self.wrong = parameters, setting, wrong
        self.momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def first_step(self):
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.parameters))
        rho = self.setting.rho / 2 if self.wrong == "radius" else self.setting.rho
        self.old = [p.clone() for p in self.parameters]
        for p in self.parameters:
            p.add_(p.grad, alpha=rho / norm)

    @torch.no_grad()
    def second_step(self):
        decay = 0.0 if self.wrong == "decay" else self.setting.weight_decay
        for p, old, v in zip(self.parameters, self.old, self.momenta, strict=True):
            if self.wrong != "restore":
                p.copy_(old)
            v.mul_(0.0 if self.wrong == "momentum" else self.setting.momentum)
            v.add_(p.grad).add_(p, alpha=decay)
            p.sub_(v, alpha=self.setting.lr)
