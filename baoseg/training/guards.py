"""What cannot come to anything ends at once, in one line that says what helps.

- Batch norm in training divides by the deviation of a channel's values. One value has none, and PyTorch refuses it:
  a single image whose features are pooled to one cell, or are as small as one. `try_one_image` finds out before the
  first epoch; a layer whose statistics are frozen is content with one.
- A loss that is NaN stays NaN. `LossWatch` notes the step and the term at which it began; `require_finite` looks at
  the weights that an epoch leaves.
- No comparison with NaN is true, so maps and logits of NaN make masks of background. `numbers` looks at what a network
  says of an image before anything is decided.
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

TOO_FEW = "Expected more than 1"  # how PyTorch begins to say that a norm has one value a channel
EVERY = 50  # steps between two looks at the loss, where a look has to wait for the device


def smallest_part(batch_size: int, parts: int) -> int:
    """Images in the smallest of the parts of a batch (`Batch.parts`)."""
    size = -(-batch_size // parts)
    return batch_size - (-(-batch_size // size) - 1) * size


def try_one_image(learner: Learner, image: Batch, *, name: str, batch_size: int, devices: int, parts: int) -> None:
    """A loss of one image, as a step would compute it; the network and the random state are as before.

    `batch_size` is that of each device. Raises RecipeError where a norm cannot be computed.
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
        f"{name}: batch normalisation gets one value a channel from an image, and needs two to learn: "
        f"{_share_of_one(batch_size, devices, parts)}"
    )


def _share_of_one(batch_size: int, devices: int, parts: int) -> str:
    """Why images go through the network one by one, and what to change."""
    if parts > 1 and batch_size > 1:
        enough = max(count for count in range(1, parts) if smallest_part(batch_size, count) > 1)
        what = "leave --accumulate out" if enough == 1 else f"use --accumulate {enough}"
        return f"--accumulate {parts} leaves one image in a part; {what}, or a larger --batch-size"
    if devices > 1:
        return f"each of {devices} devices has one image; use --batch-size {2 * devices} or more, or fewer --devices"
    return "a batch has one image; use --batch-size 2 or more, and at least as many training images"


@contextmanager
def _unchanged(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Running statistics and the random state are put back."""
    before = {name: value.clone() for name, value in module.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in module.named_buffers():
                    value.copy_(before[name])


class LossWatch:
    """The first step at which each term of the loss was NaN or infinite, on any process."""

    def __init__(self, least: Callable[[Tensor], Tensor], *, every: int, remedy: str) -> None:
        self.least = least  # over all processes
        self.every = every
        self.remedy = remedy
        self.names: tuple[str, ...] = ()
        self.first: Tensor | None = None  # [terms]; the highest number while all is well

    def see(self, step: int, terms: Mapping[str, Float[Tensor, ""]]) -> None:
        """Note the terms of a step, counted from 1. Nothing waits for the device."""
        values = torch.stack([value.detach() for value in terms.values()])
        none = torch.iinfo(torch.int64).max
        bad = torch.full(values.shape, step, device=values.device).where(~values.isfinite(), none)
        self.names = tuple(terms)
        self.first = bad if self.first is None else torch.minimum(self.first, bad)

    def check(self, step: int, *, steps_per_epoch: int, name: str) -> None:
        """Look every so many steps and at the end of an epoch. Raises DivergenceError on all processes alike."""
        if self.first is None or (step % self.every and step % steps_per_epoch):
            return
        at, term = min(zip(self.least(self.first).tolist(), self.names, strict=True))
        if at <= step:
            epoch, within = divmod(at - 1, steps_per_epoch)
            raise DivergenceError(
                f"{name}: the loss {term!r} is NaN or infinite in epoch {epoch + 1}, step {within + 1}; {self.remedy}"
            )


def require_finite(learner: nn.Module, *, name: str, epoch: int, remedy: str) -> None:
    """Raises DivergenceError where the last step of an epoch left weights that are NaN or infinite."""
    values = {key: value for key, value in learner.state_dict().items() if value.is_floating_point()}
    fine = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    if bad := [key for key, each in zip(values, fine, strict=True) if not each]:
        raise DivergenceError(f"{name}: the weights {bad[0]} are NaN or infinite after epoch {epoch}; {remedy}")


def numbers(values: Tensor | float, what: str) -> None:
    """Raises NotFiniteError where what a network says of an image (`what`, in the plural) is NaN or infinite."""
    if not (math.isfinite(values) if isinstance(values, float) else values.isfinite().all()):
        raise NotFiniteError(
            f"the network gives {what} of this image that are NaN or infinite; use --precision 32-true where it "
            "computes in half precision, or else other weights"
        )


@contextmanager
def of_image(name: object) -> Iterator[None]:
    """Inside, an error about an image gets the name in front."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{name}: {error}") from None
