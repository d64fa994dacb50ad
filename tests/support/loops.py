"""What somebody's own training loop is made of."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)


def closure_for(model, b, divide=1):
    """Mean loss and gradient of a batch, in as many micro-batches."""

    def closure():
        total = torch.zeros(())
        for images, labels in zip(b.images.chunk(divide), b.labels.chunk(divide), strict=True):
            loss = F.cross_entropy(model(images), labels) / divide
            loss.backward()
            total = total + loss.detach()
        return total

    return closure


def weights(model):
    """All of them in one vector, copied."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def climbs_of(optimizer, b, steps=1):
    """The eps of each step, seen from within the closure."""
    seen = []
    closure = closure_for(optimizer.model, b)

    def watched():
        seen.append(weights(optimizer.model))
        return closure()

    for _ in range(steps):
        optimizer.step(watched)
    return [above - below for below, above in zip(seen[::2], seen[1::2], strict=True)]
