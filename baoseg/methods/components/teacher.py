"""How the target network follows the online network (BAO sec. 4.3).

*Share* copies the online weights after each step, which lets the pseudo-labels improve fast; *EMA* averages them over
time, which keeps the bias of one step's mistakes out of the labels of the next. BAO shares during the first epoch and
then averages; each alone is an ablation (figure 4).
"""

import math
from enum import StrEnum

import torch
from torch import nn


class Follow(StrEnum):
    SHARE_THEN_EMA = "share-then-ema"
    SHARE = "share"
    EMA = "ema"


@torch.no_grad()
def share(target: nn.Module, online: nn.Module) -> None:
    """target <- online, parameters and buffers."""
    average(target, online, momentum=0.0)


@torch.no_grad()
def average(target: nn.Module, online: nn.Module, *, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online (BAO eq. 9); buffers are copied.

    The released code leaves buffers (batch statistics) of the target behind; ours follow the online network, as the
    target is evaluated with them.
    """
    pairs = list(zip(target.parameters(), online.parameters(), strict=True))
    torch._foreach_lerp_([t for t, _ in pairs], [o.detach() for _, o in pairs], 1 - momentum)
    for theirs, ours in zip(target.buffers(), online.buffers(), strict=True):
        theirs.copy_(ours)


WINDOW = 1 / 6  # of the averaged steps: BAO's momentum of 0.9995 averages over 2,000 of 11,900 (sec. 4.3)


def proportional(steps: int) -> float:
    """The momentum whose window, 1 / (1 - momentum) steps, is WINDOW of the steps: for trainings of any length."""
    return max(0.0, 1 - 1 / max(WINDOW * steps, 1.0))


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along half a cosine."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
