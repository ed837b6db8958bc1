"""Finds the state dict in a checkpoint: opens the dicts around it, and removes prefixes from its names."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

State = dict[str, Shaped[Tensor, "..."]]

# Usual names of the state dict in a checkpoint, and of the running mean of the weights (EMA).
PLAIN = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "module")
AVERAGED = ("model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict")
# torch.nn.DataParallel, torch.compile, and the attributes under which Lightning modules keep a network.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", *(f"{name}." for name in AVERAGED))
NEARLY_ALL = 0.9  # share of the names; the other tensors belong to the training, not to the network
DEEPEST = 4  # levels of dicts that are searched: in a damaged file, a dict may contain itself


def unwrapped(content: Any) -> tuple[State, list[str]]:
    """The state dict in the content of a checkpoint, in the names of its network, and notes on what was done.

    - Nested dicts with a name of PLAIN or AVERAGED are opened. Plain weights are preferred; averaged weights are used
    if
      there are no plain weights. Two candidates of the same kind are an error.
    - A prefix of PREFIXES that all or nearly all names have is removed, repeatedly; names without the prefix are
    ignored.
      If the same names also exist with an averaged prefix, the plain weights are used.

    The caller must check whether the result fits a network. Raises ValueError if there is no state dict.
    """
    opened: list[str] = []
    notes: list[str] = []
    while not _is_state(content):
        name, ignored = _container(content)
        opened.append(name)
        notes += [f"{other} is left out" for other in ignored]
        content = content[name]
    if opened:
        notes.insert(0, f"read from {'/'.join(opened)}")
    state, cut = _without_prefixes(_without_average(dict(content), notes), notes)
    if cut:
        notes.append(f"cut the prefix {cut} off")
    return state, notes


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _holds_state(content: Any, depth: int = 1) -> bool:
    if _is_state(content):
        return True
    if not isinstance(content, dict) or depth == DEEPEST:
        return False
    return any(_holds_state(content.get(name), depth + 1) for name in (*PLAIN, *AVERAGED))


def _container(content: Any) -> tuple[str, list[str]]:
    """The name of the dict to open, and the names of the dicts that are ignored. Raises ValueError."""
    found = {
        kind: [name for name in names if isinstance(content, dict) and _holds_state(content.get(name))]
        for kind, names in (("plain", PLAIN), ("averaged", AVERAGED))
    }
    candidates = found["plain"] or found["averaged"]
    if len(candidates) > 1:
        raise ValueError(f"holds several networks ({', '.join(candidates)}); save only the one to be used")
    if not candidates:
        others = [str(name) for name, value in content.items() if _is_state(value)] if isinstance(content, dict) else []
        has = f" by a usual name (it has {', '.join(others)})" if others else ""
        raise ValueError(f"holds no state dict{has}; save model.state_dict() in it")
    return candidates[0], found["averaged"] if found["plain"] else []


def _without_average(state: State, notes: list[str]) -> State:
    """Remove a running mean of the weights that is in the same dict as the weights."""
    for name in AVERAGED:
        mean = _under(f"{name}.", state)
        plain = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
        if mean and plain and _without_prefixes(mean)[0].keys() == _without_prefixes(plain)[0].keys():
            notes.append(f"{name} is left out")
            return plain
    return state


def _without_prefixes(state: State, notes: list[str] | None = None) -> tuple[State, str]:
    """The state without its prefixes, and the removed prefixes joined."""
    cut = ""
    while found := next((prefix for prefix in PREFIXES if _share(prefix, state) >= NEARLY_ALL), None):
        others = [name for name in state if not name.startswith(found)]
        if notes is not None and others:
            notes.append(f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''} left out")
        state, cut = _under(found, state), cut + found
    return state, cut


def _under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _share(prefix: str, state: Mapping[str, Tensor]) -> float:
    return sum(name.startswith(prefix) for name in state) / len(state)
