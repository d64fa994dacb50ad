"""Networks of one's own that do more than compute: what is refused, and what has to work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsam_cli.engine.fisher import fisher_diagonal
from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import UsageError
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import fsam
from tests.support.networks import batch

ODD = """
import torch
from torch import nn
from fsam_cli.contracts import Model

class Remembering(nn.Module):
    '''Multiplies by a buffer that an evaluation makes anew.'''
    def __init__(self, pixels, classes):
        super().__init__()
        self.layer = nn.Linear(pixels, classes)
        self.register_buffer("scale", torch.ones(pixels), persistent=False)

    def forward(self, images):
        if not self.training:
            self.scale = torch.full_like(self.scale, 1.0)
        return self.layer(images.flatten(1) * self.layer.weight[0] * self.scale)

class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"seen": 1}

    def set_extra_state(self, state):
        pass

class Talkative(nn.Linear):
    def forward(self, pixels):
        return super().forward(pixels), pixels

class Odd(Model):
    kind: str

    def build(self, *, channels, classes, image_size):
        pixels = channels * image_size ** 2
        return {
            "remembering": lambda: Remembering(pixels, classes),
            "stateful": lambda: nn.Sequential(nn.Flatten(), Stateful(pixels, classes)),
            "frozen": lambda: nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
                .requires_grad_(False),
            "wide": lambda: nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes + 2)),
            "talkative": lambda: nn.Sequential(nn.Flatten(), Talkative(pixels, classes)),
            "without": lambda: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(classes)),
        }[self.kind]()

PROVIDES = {"odd": Odd}
"""


def ended(tmp_path, kind, *overrides):
    (tmp_path / "odd.py").write_text(ODD)
    settings = [f"model={{name: odd, kind: {kind}}}", "train.epochs=2", "seeds=0"]
    experiment = load_experiment(
        "quickstart", [*settings, "methods={sam: {}}", *overrides], [tmp_path / "odd.py"]
    )
    (one,) = plan(experiment, out=tmp_path / "runs", device="cpu")
    return execute(one, Hooks())


@pytest.mark.parametrize("averaged", ["train.ema=null", "train.ema=0.9"])
def test_what_an_evaluation_leaves_in_a_buffer_can_be_trained_with(tmp_path, averaged):
    outcome = ended(tmp_path, "remembering", averaged)
    assert (outcome.ended, outcome.reason) == ("done", "")


@pytest.mark.parametrize("kind", ["frozen", "without"])
def test_a_network_with_nothing_to_train_is_told_so(tmp_path, kind):
    outcome = ended(tmp_path, kind)
    assert outcome.status == "failed"
    assert "UsageError: the network has no trainable parameter" in outcome.reason


def test_a_state_that_no_checkpoint_could_bring_back_is_refused_before_anything_is_trained(
    tmp_path,
):
    outcome = ended(tmp_path, "stateful")
    assert outcome.status == "failed"
    assert "'1._extra_state' of the network's state is neither" in outcome.reason
    assert not list(tmp_path.rglob("metrics.csv"))


@pytest.mark.parametrize(
    ("kind", "given"), [("wide", "a tensor of shape (256, 12)"), ("talkative", "tuple")]
)
def test_an_output_that_is_no_logits_of_the_classes_ends_the_run(tmp_path, kind, given):
    outcome = ended(tmp_path, kind, "train.batch_size=256")
    assert outcome.status == "failed"
    assert outcome.reason == (
        f"UsageError: the network gives {given} for 256 images; give the logits alone, of shape "
        "(batch, classes), which is (256, 10) here"
    )


def test_a_dry_run_tells_it_beforehand(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    dry = ("train", "-r", "quickstart", "--plugin", "odd.py", "--dry-run")
    fsam(*dry, "model={name: odd, kind: remembering}", cwd=tmp_path)
    done = fsam(*dry, "model={name: odd, kind: wide}", cwd=tmp_path, check=2)
    assert "the network gives a tensor of shape (1, 12) for 1 image; give the" in done.stderr


class Writes(nn.Module):
    """A mean of the images seen, and a count of passes: only the first tells images apart."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(72, 3)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images):
        self.passes = self.passes + 1
        self.mean.mul_(0.9).add_(images.mean(), alpha=0.1)
        return self.layer(images.flatten(1) - self.mean)


@pytest.mark.parametrize("source", ["empirical", "model"])
def test_a_network_that_writes_into_a_buffer_is_refused_by_its_name(source):
    b, generator = batch(), torch.Generator()
    with pytest.raises(UsageError, match=r"writes into mean in every pass.*put a new tensor"):
        fisher_diagonal(Writes(), b.images, b.labels, source=source, draws=1, generator=generator)


def test_what_else_torch_refuses_of_single_images_is_told_in_its_own_words():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(72, 3)

        def forward(self, images):
            return self.layer(images.flatten(1)) * (2 if images.sum() > 0 else 1)

    b, generator = batch(), torch.Generator()
    with pytest.raises(RuntimeError, match="data-dependent"):
        fisher_diagonal(
            Asks(), b.images, b.labels, source="empirical", draws=1, generator=generator
        )
