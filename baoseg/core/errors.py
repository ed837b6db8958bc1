"""Errors that a user sees: one line that says where, what and the remedy. The CLI prints them and exits with 2."""


class BaosegError(Exception):
    """A mistake or a circumstance outside the code; never a bug of ours."""


class DataError(BaosegError):
    """Images, labels, masks or splits are missing, unreadable or inconsistent."""


class NotFiniteError(DataError):
    """What a network says of an image is NaN or infinite."""


class CheckpointError(BaosegError):
    """Weights are missing, unreadable or do not fit the network."""


class RunError(BaosegError):
    """A run folder cannot be written, or does not fit what is asked of it."""


class DivergenceError(RunError):
    """A training came to a loss or to weights that are NaN or infinite; to continue it leads there again."""


class TargetError(RunError):
    """One file cannot be written under its name, which is too long or that of a folder. Other files can."""


class RecipeError(BaosegError):
    """Settings are unknown or contradict one another."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
