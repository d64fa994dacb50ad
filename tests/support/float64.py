"""A trained network written down anew in float64, as a reference for what is measured of it."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F


class Plain:
    """The same network and images in float64, with one tensor of weights for each parameter."""

    def __init__(self, net, held):
        self.model = copy.deepcopy(net.model).double().eval()
        self.images, self.labels = net.normalised(held.images).double(), held.labels
        self.weights = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.buffers = dict(self.model.named_buffers())

    def loss(self, weights, at=slice(None)):
        state = {**weights, **self.buffers}
        logits = torch.func.functional_call(self.model, state, (self.images[at],))
        return F.cross_entropy(logits, self.labels[at])

    def gradient(self, at=slice(None)):
        return torch.func.grad(self.loss)(self.weights, at)

    def hessian_times(self, vector):
        """Forward over reverse, where fsam derives backwards twice."""
        _, product = torch.func.jvp(torch.func.grad(self.loss), (self.weights,), (vector,))
        return product


def by_name(net, flat):
    found = {s.name: net.flat.view(flat, s).clone() for s in net.flat.segments}
    return {name: found[name] for name, _ in net.model.named_parameters()}


def inner(a, b):
    return sum(float((a[name] * b[name]).sum()) for name in a)
