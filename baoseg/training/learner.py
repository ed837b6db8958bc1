"""The interface of what `training.train.fit` trains: a method, the network of PSA or IRN, or a segmentation network."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from baoseg.core.types import Batch


@dataclass(frozen=True)
class Progress:
    """The progress of a training after a step."""

    step: int  # finished steps, from 1
    steps: int  # number of steps of the whole training
    steps_per_epoch: int


class Learner(nn.Module):
    """A module with a loss."""

    def loss(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss by name; training minimises their sum."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The same as `loss`, because wrappers for several devices call `forward`."""
        return self.loss(batch)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that no pretraining provides; they may have a higher learning rate."""
        raise NotImplementedError

    def begin_training(self) -> None:
        """Called once before a training starts or continues, but not for inference."""

    def after_step(self, progress: Progress) -> None:
        """Called after each optimiser step."""
