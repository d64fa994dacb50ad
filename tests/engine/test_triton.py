"""The compiled passes as a GPU would run them: a few kernels, each vector read and written once."""

from __future__ import annotations

import pytest
import torch

from fsam_cli.engine import climb, sgd
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.models.wide_resnet import Wrn28x10
from tests.support.networks import stepper

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_compiler")]

# What is read for the length, and read and written by the climb, its 0-dim factor included.
METHODS = (
    (Sam(rho=0.1), 1, (3, 1)),  # g; w, g, factor and w + eps
    (Asam(rho=0.5), 2, (3, 1)),
    (FisherSam(gamma=0.1, eta=1.0), 1, (3, 1)),
    (SamMatched(gamma=0.1, eta=1.0), 1, (3, 1)),
    (FriendlySam(rho=0.1), 2, (4, 2)),  # and the running mean of the gradients
    (MomentumSam(rho=0.1), 1, (3, 1)),  # v in the place of g
)


@pytest.mark.parametrize(
    ("method", "measured", "climbed"), METHODS, ids=[type(each[0]).__name__ for each in METHODS]
)
def test_for_a_gpu_a_compiled_step_is_a_few_kernels(
    method, measured, climbed, tmp_path, monkeypatch
):
    pytest.importorskip("triton")
    from tests.support.triton import pretended_h200

    with pretended_h200(tmp_path) as gpu:
        monkeypatch.setattr(climb, "as_one_loop", gpu.compile)
        monkeypatch.setattr(sgd, "as_one_loop_for_all", gpu.compile)
        with torch.device("cuda"):
            model = Wrn28x10().build(channels=3, classes=10, image_size=32)
            s = stepper(model, method, compiled=True)
        along = s.optimizer.momentum() if method.climbs_along == "momentum" else None
        s._climber(0.5, fisher=None, momentum=along)
        s.descend(0.1)
    kinds = len(s.flat.ranges)
    length, climbing, update = gpu.calls
    # A kind is read by one kernel, whose parts are put together by one for each sum.
    sums = 2 if isinstance(method, SamMatched) else 1
    assert len(length.launches) <= kinds * (1 + sums) + 1
    assert max(kernel.loads for kernel in length.kernels if "_red_" in kernel.name) == measured
    assert len(climbing.launches) == kinds
    assert {(kernel.loads, kernel.stores) for kernel in climbing.kernels} == {climbed}
    assert len(update.launches) == 1
    # Momentum SGD reads w, g, v, learning rate and the flag, and writes v and w.
    assert {(kernel.loads, kernel.stores) for kernel in update.kernels} == {(5, 2)}
    for call in gpu.calls:
        assert all(name.startswith("triton_") for name in call.launches)
        assert all(kernel.spilled == 0 for kernel in call.kernels)
