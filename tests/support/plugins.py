"""Plugin files as a user would write them."""

from __future__ import annotations

MINIMISER = '''
from pydantic import Field
from fsam_cli.contracts import Minimiser

class Doubled(Minimiser):
    """SAM with twice the radius."""
    rho: float = Field(0.05, gt=0)

    @property
    def radius(self):
        return 2 * self.rho

    def direction(self, at):
        return at.g

PROVIDES = {"doubled": Doubled}
'''
MODEL = """
from torch import nn
from fsam_cli.contracts import Model

class Flat(Model):
    width: int = 5

    def build(self, *, channels, classes, image_size):
        pixels = channels * image_size ** 2
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, self.width), nn.ReLU(),
                             nn.Linear(self.width, classes))

PROVIDES = {"flat": Flat}
"""
EVERYTHING = """
import numpy as np
from pathlib import Path
from fsam_cli.contracts import Augmentation, DataSet
from fsam_cli.datasets.digits import Digits

class Half(DataSet):
    def fingerprint(self, root):
        return Digits().fingerprint(root)

    def load(self, root):
        return Digits().load(root)

class Dark(Augmentation):
    by: int = 2

    def draw(self, random, images, height, width):
        return {"darker": random.random(images) < 0.5}

    def apply(self, images, draws):
        return (images // self.by).where(draws["darker"][:, None, None, None], images)
"""
