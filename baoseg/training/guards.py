"""Checks that end a hopeless training at once, with an error of one line that says how to fix it.

- In training, batch norm needs at least two values per channel, and PyTorch raises an error for one value: for one
image
  whose features are one cell. `try_one_image` checks this before the first epoch. A layer with frozen statistics
  accepts one value.
- A loss that is NaN stays NaN. `LossWatch` finds the first step and term that is NaN or infinite; `require_finite`
checks
  the weights after an epoch.
- No comparison with NaN is true, so that maps with NaN would give masks of background. `numbers` checks the outputs of
a
  network for an image.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baoseg.core.errors import DataError, DivergenceError, NotFiniteError, RecipeError
from baoseg.core.types import Batch
from baoseg.training.learner import Learner

TOO_FEW = "Expected more than 1"  # start of the message of PyTorch for one value per channel
EVERY = 50  # steps between two checks of the loss, if a check must wait for the device


def smallest_part(batch_size: int, parts: int) -> int:
    """The number of images in the smallest part of a batch (`Batch.parts`)."""
    size = -(-batch_size // parts)
    return batch_size - (-(-batch_size // size) - 1) * size


def try_one_image(learner: Learner, image: Batch, *, name: str, batch_size: int, devices: int, parts: int) -> None:
    """Compute the loss of one image; the network and the random state are unchanged afterwards.

    `batch_size` is per device. Raises RecipeError if a batch norm cannot be computed.
    """
    with _unchanged(learner, image.images.device), torch.no_grad():
        try:
            learner.loss(image)
        except ValueError as error:
            if TOO_FEW not in str(error):
                raise
        else:
            return
    raise RecipeError(
        f"{name}: batch normalisation needs two values per channel in training, but one image gives one value: "
        f"{_share_of_one(batch_size, devices, parts)}"
    )


def _share_of_one(batch_size: int, devices: int, parts: int) -> str:
    """Why one image is alone in the network, and what to change."""
    if parts > 1 and batch_size > 1:
        enough = max(count for count in range(1, parts) if smallest_part(batch_size, count) > 1)
        what = "leave --accumulate out" if enough == 1 else f"use --accumulate {enough}"
        return f"--accumulate {parts} leaves one image in a part; {what}, or a larger --batch-size"
    if devices > 1:
        return f"each of {devices} devices has one image; use --batch-size {2 * devices} or more, or fewer --devices"
    return "a batch has one image; use --batch-size 2 or more, and at least as many training images"


@contextmanager
def _unchanged(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore buffers (running statistics) and the random state after the block."""
    before = {name: value.clone() for name, value in module.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in module.named_buffers():
                    value.copy_(before[name])


class LossWatch:
    """Finds the first step at which a term of the loss is NaN or infinite on any process.

    `least` is the minimum over all processes; `every` is the number of steps between two checks.
    """

    def __init__(self, least: Callable[[Tensor], Tensor], *, every: int, remedy: str) -> None:
        self.least = least  # the minimum over all processes
        self.every = every
        self.remedy = remedy
        self.names: tuple[str, ...] = ()
        self.first: Tensor | None = None  # first bad step of each term [terms]; the largest integer for none

    def see(self, step: int, terms: Mapping[str, Float[Tensor, ""]]) -> None:
        """Record the terms of a step, counted from 1, without waiting for the device."""
        values = torch.stack([value.detach() for value in terms.values()])
        none = torch.iinfo(torch.int64).max
        bad = torch.full(values.shape, step, device=values.device).where(~values.isfinite(), none)
        self.names = tuple(terms)
        self.first = bad if self.first is None else torch.minimum(self.first, bad)

    def check(self, step: int, *, steps_per_epoch: int, name: str) -> None:
        """Check every `every` steps and at the end of an epoch. Raises DivergenceError on all processes."""
        if self.first is None or (step % self.every and step % steps_per_epoch):
            return
        at, term = min(zip(self.least(self.first).tolist(), self.names, strict=True))
        if at <= step:
            epoch, within = divmod(at - 1, steps_per_epoch)
            raise DivergenceError(
                f"{name}: the loss {term!r} is NaN or infinite in epoch {epoch + 1}, step {within + 1}; {self.remedy}"
            )


def require_finite(learner: nn.Module, *, name: str, epoch: int, remedy: str) -> None:
    """Raise DivergenceError if weights are NaN or infinite after an epoch."""
    values = {key: value for key, value in learner.state_dict().items() if value.is_floating_point()}
    fine = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    if bad := [key for key, each in zip(values, fine, strict=True) if not each]:
        raise DivergenceError(f"{name}: the weights {bad[0]} are NaN or infinite after epoch {epoch}; {remedy}")


def numbers(values: Tensor | float, what: str) -> None:
    """Raise NotFiniteError if outputs of a network for an image are NaN or infinite; `what` names them (plural)."""
    if not (math.isfinite(values) if isinstance(values, float) else values.isfinite().all()):
        raise NotFiniteError(
            f"the network gives {what} of this image that are NaN or infinite; use --precision 32-true if it "
            "computes in half precision, otherwise other weights"
        )


@contextmanager
def of_image(name: object) -> Iterator[None]:
    """Put the name of the image in front of a DataError that is raised in the block."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name}: {error}") from None
