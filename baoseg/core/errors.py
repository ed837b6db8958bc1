"""Errors for the user. Each is one line: where, what, and how to fix it. The CLI prints the line and exits with 2."""


class BaosegError(Exception):
    """An error that the user can fix, or that comes from outside the code; never a bug in baoseg."""


class DataError(BaosegError):
    """Images, labels, masks or splits are missing, unreadable or inconsistent."""


class NotFiniteError(DataError):
    """The output of a network for an image is NaN or infinite."""


class CheckpointError(BaosegError):
    """Weights are missing, are unreadable or do not fit the network."""


class RunError(BaosegError):
    """A run folder cannot be written, or does not fit the command."""


class DivergenceError(RunError):
    """The loss or the weights became NaN or infinite in training. Continuing the training leads there again."""


class TargetError(RunError):
    """One file cannot be written, because its name is too long or a folder has this name. Other files can be."""


class RecipeError(BaosegError):
    """Settings are unknown or contradict one another."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
