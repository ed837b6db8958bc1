"""What the training loop trains: methods, the networks of PSA and IRN, a segmentation network."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from baoseg.core.types import Batch


@dataclass(frozen=True)
class Progress:
    """Where training stands, after a step."""

    step: int  # finished steps, from 1
    steps: int  # of the whole training
    steps_per_epoch: int


class Learner(nn.Module):
    """A module with a loss."""

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The terms whose sum is minimised, by name."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss, under the name by which wrappers for many devices call a module."""
        return self.loss(batch)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that no pretraining provides: they may learn faster."""
        raise NotImplementedError

    def begin_training(self) -> None:
        """Called once, before training starts or continues; inference does without."""

    def after_step(self, progress: Progress) -> None:
        """Called after each optimiser step."""
