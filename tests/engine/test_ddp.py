"""Somebody's own loop under DistributedDataParallel: two processes climb one hill.

On loopback, with a time limit on everything; two processes together must do what one does alone
with the whole batch.
"""

from __future__ import annotations

import copy
import multiprocessing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import fsam_cli
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.gsam import Gsam
from tests.support.networks import batch, network

SECONDS = 180  # for everything that waits
METHODS = {
    "sam": lambda model, base: fsam_cli.SAM(model, base, rho=0.5),
    "fsam": lambda model, base: fsam_cli.FisherSAM(model, base, gamma=0.5, eta=20.0),
    "gsam": lambda model, base: fsam_cli.SharpnessAware(model, base, Gsam(rho=0.5, alpha=0.7)),
    "per_image": lambda model, base: fsam_cli.FisherSAM(
        model, base, gamma=0.5, eta=100.0, fisher="empirical"
    ),
    "friendly_sam": lambda model, base: fsam_cli.SharpnessAware(model, base, FriendlySam(rho=0.5)),
}
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="no gloo in this torch"
)


def trained(model, optimizer, parts):
    for images, labels in parts:

        def closure(images=images, labels=labels):
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        optimizer.step(closure, batch=(images, labels))  # looked at by `per_image` alone


def plain_sgd(parts):
    model = network("group")
    base = base_of(model)
    for images, labels in parts:
        base.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        base.step()
    return model


def apart(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


def base_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def replica(rank, meeting, pipe):
    """A process: its half of every batch, every method in turn."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    ended = {}
    for name, method in METHODS.items():
        model = network("group")
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=name == "fsam")
        halves = [
            (b.images.chunk(2)[rank], b.labels.chunk(2)[rank])
            for b in (batch(seed=seed) for seed in range(3))
        ]
        if name == "per_image":  # as one may compile what is wrapped already
            parallel = torch.compile(parallel, backend="eager")
        trained(parallel, method(parallel, base_of(parallel)), halves)
        ended[name] = {key: value.numpy() for key, value in model.state_dict().items()}
    pipe.send(ended)
    pipe.close()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("meeting") / "store"
    context = multiprocessing.get_context("spawn")
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        for rank in range(2):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=replica, args=(rank, meeting, theirs), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
    try:
        ended = []
        for process, pipe in started:
            assert pipe.poll(SECONDS), "a replica does not answer"
            ended.append(pipe.recv())
            process.join(SECONDS)
    finally:
        for process, _ in started:
            process.kill()
    return ended


@pytest.mark.parametrize("name", METHODS)
def test_two_replicas_with_half_a_batch_each_are_one_process_with_all_of_it(replicas, name):
    model = network("group")
    start = copy.deepcopy(model.state_dict())
    parts = [(b.images, b.labels) for b in (batch(seed=seed) for seed in range(3))]
    trained(model, METHODS[name](model, base_of(model)), parts)
    assert apart(model, plain_sgd(parts)) > 1e-3  # the climb matters
    for ended in replicas:
        for key, value in model.state_dict().items():
            torch.testing.assert_close(
                torch.from_numpy(ended[name][key]), value, rtol=1e-4, atol=1e-5
            )
            assert not torch.equal(value, start[key])


@pytest.mark.parametrize("name", METHODS)
def test_replicas_stay_equal_to_the_bit(replicas, name):
    first, second = (ended[name] for ended in replicas)
    assert all((first[key] == second[key]).all() for key in first)
