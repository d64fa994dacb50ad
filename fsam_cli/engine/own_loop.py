"""fsam's minimisers in somebody's own training loop.

    optimizer = FisherSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), gamma=0.1, eta=1.0)
    for images, labels in loader:
        def closure():
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss
        optimizer.step(closure)

The closure computes the mean loss and its gradient; it is called twice, at w and at w + eps.
Everything around that is done here: gradients are zeroed before each call, dropout draws the same
masks in both, batch normalisation statistics move in the first only, the weights come back
bit for bit, and a non-finite gradient leaves them untouched.

Accumulation: let the closure run over micro-batches and divide each loss by their number.
bf16: open the autocast region inside the closure, so that each pass has its own.
fp16: scale inside the closure and hand the scaler over, `step(closure, scaler=scaler)`.
Clipping: `step(closure, clip_norm=1.0)`; in the closure it would change both gradients.
DistributedDataParallel: hand over the wrapped model; all replicas climb one hill.
Schedulers: attach them to it or to the base optimiser, whose parameter groups it has.
Another radius on the way: `optimizer.method = FisherSam(gamma=0.05)`, the method as a whole.

Masks drawn from Python's or numpy's random numbers are not the same in both passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fsam_cli.engine.ascent import (
    combine_,
    perturb_,
    recombines,
    refuse_unmoved,
    restore_,
)
from fsam_cli.engine.buffers import running_statistics_frozen
from fsam_cli.engine.fisher import fisher_diagonal
from fsam_cli.engine.kinds import kinds_by_name, refuse_complex
from fsam_cli.engine.torch_optimizer import momentum_in
from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import Chunk, Kind, Minimiser
from fsam_cli.recipe.optimizers import REFUSED


class SharpnessAware(torch.optim.Optimizer):
    """Any of fsam's methods around any torch optimiser.

    A torch optimiser itself, without state of torch's kind: parameter groups, state and defaults
    are those of the base optimiser, and hooks are to be registered there.

    Args:
        model: whose parameters are perturbed, all together: those which the base optimiser has and
            which get a gradient. They may be frozen and unfrozen on the way.
        base_optimizer: steps at w with the gradient found at w + eps.
        method: what is climbed.

    Raises:
        UsageError: an optimiser that cannot be the base, or of another model; trainable parameters
            that are complex, lie on several devices, or have less than 32 bits, which eps would
            mostly not move (here or in the first step after they were unfrozen); or a method that
            depends on the epoch or cuts the batch, which only the caller knows.
    """

    def __init__(
        self, model: nn.Module, base_optimizer: torch.optim.Optimizer, method: Minimiser
    ) -> None:
        _refuse_unfit(model, base_optimizer, method)
        self.model, self.base, self.method = model, base_optimizer, method
        self.skipped_steps = 0  # for want of a finite gradient
        self._memory: dict[str, Tensor] = {}  # of methods that keep one, by parameter name
        self._peak_lr = 0.0  # highest so far, which GSAM's radius is relative to
        self._stepped = False  # with a gradient
        # For drawn labels; nothing else draws from it, and it is part of the state.
        self._drawn = torch.Generator().manual_seed(torch.initial_seed())
        self._stepped_by_base: set[int] = set()  # when `_parameters` was made
        self._parameters: list[tuple[str, nn.Parameter, Kind]] = []
        self._refuse_what_needs_the_loop()
        optimised = self._optimised()
        if not optimised:
            raise UsageError(
                "the base optimiser has no parameter of this model; make both from the same one"
            )
        refuse_unmoved(method, {kind for _, _, kind in optimised})
        trained = [(name, parameter) for name, parameter, _ in optimised if parameter.requires_grad]
        if len(devices := {str(parameter.device) for _, parameter in trained}) > 1:
            raise UsageError(
                f"the parameters lie on several devices ({', '.join(sorted(devices))}), and eps is "
                "computed on one"
            )
        for name, parameter in trained:
            _refuse_unfit_weights(name, parameter)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimiser's."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimiser's, by parameter."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimiser's."""
        return self.base.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a group of parameters of the model to the base optimiser."""
        self.base.add_param_group(param_group)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r},\n{self.base!r})"

    def __setattr__(self, name: str, value: Any) -> None:
        """Raise AttributeError for a setting of the method, which would change nothing here."""
        method = self.__dict__.get("method")
        if method is not None and name in type(method).model_fields and name not in self.__dict__:
            kind = type(method).__name__
            raise AttributeError(
                f"'{name}' is a setting of the method and cannot be set on the optimiser; replace "
                f"the method: optimizer.method = {kind}({name}={value!r}, ...)"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A scheduler puts a `step` of this very object among its attributes.
        return {key: value for key, value in self.__dict__.items() if key != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Also done by `step` itself."""
        self.base.zero_grad(set_to_none)
        self.model.zero_grad(set_to_none)  # of parameters that the base optimiser lacks, too

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor],
        *,
        scaler: torch.amp.GradScaler | None = None,
        batch: tuple[Tensor, Tensor] | None = None,
        clip_norm: float | None = None,
    ) -> Tensor:
        """One sharpness-aware step; gives the first pass's loss, detached: at w, MSAM's at w + eps.

        Args:
            closure: computes the mean loss, calls backward, returns the loss.
            scaler: if the closure scales its loss; stepped and updated here.
            batch: (images, labels), for `fisher: empirical | model` only.
            clip_norm: largest norm of the gradient of the update; the climb's is not clipped.

        Raises:
            UsageError: the closure gives no loss or no gradient; `clip_norm` is not positive; the
                Fisher information needs `batch`, or the network mixes images.
        """
        if clip_norm is not None and not clip_norm > 0:  # below 0 the update would climb
            raise UsageError(f"clip_norm={clip_norm}: give a positive norm, or None not to clip")
        if scaler is not None and not scaler.is_enabled():
            scaler = None
        masks = _MaskState(self.base)
        if self.method.climbs and self.method.climbs_along == "momentum":
            with self._climbed(self._momenta()):
                loss = self._gradient(closure)
            firsts = self._chunks(scaler, batch)
        else:
            loss = self._gradient(closure)
            firsts = self._chunks(scaler, batch)
            if recombines(self.method):
                firsts = [at._replace(g=at.g.clone()) for at in firsts]
            if self.method.climbs:
                with self._climbed(firsts), running_statistics_frozen(list(self.model.modules())):
                    masks.again()
                    self._gradient(closure)
        if recombines(self.method):
            self._recombine(firsts, scaler)
        self._descend(scaler, clip_norm)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's state, momentum included, and the method's memory if it has one.

        Names are those of the model inside DistributedDataParallel and torch.compile.
        """
        return {
            "method": type(self.method).__name__,
            "base": self.base.state_dict(),
            "memory": {name: m.clone() for name, m in self._memory.items()},
            "peak_lr": self._peak_lr,
            "drawn": self._drawn.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state over, or leave everything as it is.

        The settings of the method are not part of it: the radius stays what it is here.

        Raises:
            UsageError: no state of this class, or one of another method or model.
        """
        if not {"method", "base", "memory", "peak_lr", "drawn"} <= set(state):
            raise UsageError(
                f"this is not a state of {type(self).__name__}.state_dict(); that of a base "
                "optimiser goes to .base.load_state_dict()"
            )
        if state["method"] != type(self.method).__name__:
            raise UsageError(
                f"the state is one of {state['method']}, and this is {type(self.method).__name__}"
            )
        self._optimised()
        there = {name: parameter for name, parameter, _ in self._parameters}
        for name, m in state["memory"].items():
            if name not in there or there[name].shape != m.shape:
                raise UsageError(
                    f"the state remembers '{name}' {tuple(m.shape)}, which is not here"
                )
        self.base.load_state_dict(state["base"])
        self._memory = {
            name: m.to(there[name].device, copy=True) for name, m in state["memory"].items()
        }
        self._peak_lr = state["peak_lr"]
        self._drawn.set_state(state["drawn"].cpu())

    def _refuse_what_needs_the_loop(self) -> None:
        if type(self.method).active_in is not Minimiser.active_in:
            raise UsageError(
                f"{type(self.method).__name__} depends on the epoch: in your own loop step the "
                "base optimiser while steps are plain, and SAM afterwards"
            )
        if self.method.period > 1:
            raise UsageError(
                f"{type(self.method).__name__} climbs once in {self.method.period} steps, counted "
                "from the first of a training; train it with `fsam train`"
            )
        if self.method.m_sharpness is not None:
            raise UsageError(
                "m_sharpness cuts the batch, which only your loop can: step once per micro-batch"
            )

    @contextmanager
    def _climbed(self, chunks: list[Chunk]) -> Iterator[None]:
        saved = [at.w.clone() for at in chunks]
        try:
            if chunks:
                # A gradient that is not finite skips the step; it must not be remembered either.
                remember = self.method.remembers and _finite([at.g for at in chunks])
                share = self.method.share_of_radius(self._share_of_peak_lr())
                perturb_(self.method, chunks, saved, share=share, remember=remember)
            yield
        finally:
            restore_(chunks, saved)

    def _share_of_peak_lr(self) -> float:
        """The learning rate over its peak, which a scheduler with a warm-up knows in advance."""
        group = self.base.param_groups[0]
        known = (float(group.get(key, 0)) for key in ("lr", "initial_lr", "max_lr"))
        self._peak_lr = max(self._peak_lr, *known)
        return float(group["lr"]) / self._peak_lr if self._peak_lr else 1.0

    def _recombine(self, firsts: list[Chunk], scaler: torch.amp.GradScaler | None) -> None:
        """Both gradients, or the Fisher information, make the step; scaled as the closure did."""
        scale = 1.0 if scaler is None else scaler.get_scale()
        parameters = [p for _, p, _ in self._optimised() if p.grad is not None]
        if [p.data_ptr() for p in parameters] != [at.w.data_ptr() for at in firsts]:
            raise UsageError(
                f"{type(self.method).__name__} combines both gradients, and the two passes gave "
                "gradients to different parameters"
            )
        seconds = [_dense(p.grad) / scale for p in parameters if p.grad is not None]
        if self.method.remembers and not _finite([at.g for at in firsts] + seconds):
            firsts = [at._replace(m=None) for at in firsts]
        combine_(self.method, firsts, seconds, climbed=self.method.climbs)
        for parameter, step in zip(parameters, seconds, strict=True):
            parameter.grad = step * scale

    def _gradient(self, closure: Callable[[], Tensor]) -> Tensor:
        self.zero_grad()
        # If the caller stands inside an autocast region, its cached bf16 copies of w must not
        # serve the pass at w + eps: the perturbation would vanish and SAM become SGD.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            loss = closure()
        if not isinstance(loss, Tensor):
            raise UsageError(
                f"the closure returned {type(loss).__name__}; it must call backward on the mean "
                "loss and return that loss, a tensor"
            )
        trained = [p for _, p, _ in self._optimised() if p.requires_grad]
        if trained and all(p.grad is None for p in trained):
            raise UsageError(
                "after the closure no parameter has a gradient; it must call backward on the mean "
                "loss"
            )
        return loss.detach()

    def _chunks(
        self, scaler: torch.amp.GradScaler | None, batch: tuple[Tensor, Tensor] | None
    ) -> list[Chunk]:
        scale = 1.0 if scaler is None else 1.0 / scaler.get_scale()
        fisher = self._fisher(batch)
        chunks = []
        for name, parameter, kind in self._optimised():
            if parameter.grad is None:
                continue
            _refuse_unfit_weights(name, parameter)
            g = _dense(parameter.grad)
            g = g if scale == 1.0 else g * scale
            f = None if fisher is None else fisher[name]
            m = self._remembered(name, parameter)
            chunks.append(Chunk(parameter.detach(), g, f, kind, m=m))
        return chunks

    def _optimised(self) -> list[tuple[str, nn.Parameter, Kind]]:
        """The model's parameters that the base optimiser steps, as of now."""
        stepped = {id(p) for group in self.param_groups for p in group["params"]}
        if stepped != self._stepped_by_base:  # the first time, or a layer has come since
            inner = _wrappings(self.model)[-1]
            named, kinds = dict(inner.named_parameters()), kinds_by_name(inner, frozen=True)
            self._parameters = [(name, named[name], kind) for name, kind in kinds.items()]
            self._stepped_by_base = stepped
        return [entry for entry in self._parameters if id(entry[1]) in stepped]

    def _momenta(self) -> list[Chunk]:
        """The weights with the base optimiser's momentum; none before the first step."""
        kept = []
        for _, parameter, kind in self._optimised():
            v = momentum_in(self.base.state.get(parameter, {}))
            if v is not None:
                kept.append((parameter, Chunk(parameter.detach(), v, None, kind, v)))
        if self._stepped and not kept:
            raise UsageError(
                f"{type(self.method).__name__} climbs along the base optimiser's momentum, and "
                f"{type(self.base).__name__} keeps none here; use SGD with momentum, or Adam"
            )
        return [chunk for parameter, chunk in kept if parameter.requires_grad]

    def _remembered(self, name: str, parameter: Tensor) -> Tensor | None:
        if not self.method.remembers:
            return None
        if name not in self._memory:
            self._memory[name] = torch.zeros_like(parameter)
        return self._memory[name]

    def _fisher(self, batch: tuple[Tensor, Tensor] | None) -> dict[str, Tensor] | None:
        source = self.method.fisher_source
        if source is None:
            return None
        pair = isinstance(batch, tuple | list) and len(batch) == 2  # loaders give lists
        if batch is None or not pair or len(batch[0]) != len(batch[1]):
            raise UsageError(
                f"fisher '{source}' needs step(closure, batch=(images, labels)), as many of each"
            )
        *around, inner = _wrappings(self.model)
        labels = self.method.fisher_labels
        found = fisher_diagonal(inner, *batch, source=source, draws=labels, generator=self._drawn)
        for parallel in around:
            if isinstance(parallel, DistributedDataParallel):  # one Fisher information, one hill
                for f in found.values():
                    distributed.all_reduce(f, group=parallel.process_group)
                    f /= distributed.get_world_size(parallel.process_group)
        return found

    def _descend(self, scaler: torch.amp.GradScaler | None, clip_norm: float | None) -> None:
        stepped = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in stepped if p.grad is not None]
        if scaler is not None and clip_norm is not None:
            scaler.unscale_(self.base)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(stepped, clip_norm)
        if scaler is not None:
            scale = scaler.get_scale()
            scaler.step(self.base)  # skips by itself what is not finite, and then lowers its scale
            scaler.update()
            skipped = scaler.get_scale() < scale
        elif not (skipped := not _finite(gradients)):
            self.base.step()
        self.skipped_steps += skipped
        self._stepped |= bool(gradients) and not skipped


def _refuse_unfit(model: nn.Module, base: torch.optim.Optimizer, method: Minimiser) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the first argument is a {type(model).__name__}; hand over the model itself, whose "
            "layers tell which weights are perturbed how"
        )
    if not isinstance(base, torch.optim.Optimizer):
        raise UsageError(
            f"the base optimiser is {base!r}; hand over an object such as "
            "torch.optim.SGD(model.parameters(), lr=0.1)"
        )
    if isinstance(base, SharpnessAware):
        raise UsageError(
            f"the base optimiser is a {type(base).__name__} already; hand over its base"
        )
    if not isinstance(method, Minimiser):
        raise UsageError(f"the method is {method!r}; hand over an object such as Sam(rho=0.05)")
    for each in type(base).__mro__:
        if each.__name__ in ("LBFGS", "SparseAdam"):  # Muon may: the caller gave it matrices
            why = REFUSED[each.__name__.lower()]
            raise UsageError(f"{type(base).__name__} cannot be the base optimiser: {why}")


def _wrappings(model: nn.Module) -> list[nn.Module]:
    """The model and what is inside DistributedDataParallel and torch.compile, innermost last."""
    parallel = isinstance(model, DistributedDataParallel)
    inner: Any = model.module if parallel else getattr(model, "_orig_mod", None)
    return [model] if inner is None else [model, *_wrappings(inner)]


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _refuse_unfit_weights(name: str, parameter: Tensor) -> None:
    refuse_complex(name, parameter)
    if parameter.dtype in (torch.bfloat16, torch.float16):
        raise UsageError(
            f"'{name}' is stored as {parameter.dtype}; eps is smaller than its rounding. "
            "Keep the weights in float32 and compute in bf16 with torch.autocast"
        )


def _finite(gradients: list[Tensor]) -> bool:
    sums = [g.sum().to(gradients[0].device) for g in gradients]
    return not sums or bool(torch.stack(sums).sum().isfinite())


class _MaskState:
    """The random state of the CPU and of the weights' device as it is now, to draw the same
    dropout masks again."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        kinds = {p.device.type for group in base.param_groups for p in group["params"]}
        modules = [torch, *map(torch.get_device_module, kinds - {"cpu"})]
        self._states = [(module, _random_state(module, "get")()) for module in modules]

    def again(self) -> None:
        for module, state in self._states:
            _random_state(module, "set")(state)


def _random_state(module: Any, verb: Literal["get", "set"]) -> Callable[..., Any]:
    """The function for all devices of a kind, where there can be several."""
    one: Callable[..., Any] = getattr(module, f"{verb}_rng_state")
    return getattr(module, f"{verb}_rng_state_all", one)
