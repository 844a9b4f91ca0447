"""A nested state (dicts, lists, tuples, numbers, tensors) as JSON plus named tensors, and back, exactly.

In: what optimizer.state_dict() and scheduler.state_dict() give. Out: (JSON value, {name: tensor}), the name being the
place, such as `optimizer/state/0/exp_avg`. What JSON has no word for becomes a dict of one key that starts with $:

    {"$tensor": name}   {"$tuple": [...]}   {"$int_keys": {"0": ...}}   {"$float": "inf"}

Floats return bit for bit (Python prints the shortest digits that do). Anything else is refused: no code is ever stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cromss.errors import CheckpointError

__all__ = ["flatten", "unflatten"]


def flatten(state: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split `state` into a JSON value and its tensors, named by their place below `path`.

    Raises CheckpointError for a value that is neither None, bool, int, float, str, dict, list, tuple nor tensor.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, path, tensors), tensors


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _encode(state: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(state, Tensor):
        tensors[path] = state.detach().cpu().contiguous()
        return {"$tensor": path}
    if isinstance(state, float) and not math.isfinite(state):
        return {"$float": repr(float(state))}
    if state is None or type(state) in (bool, int, float, str):
        return state
    if type(state) in (list, tuple):
        items = [_encode(item, _join(path, index), tensors) for index, item in enumerate(state)]
        return items if type(state) is list else {"$tuple": items}
    if isinstance(state, dict):
        kinds = {type(key) for key in state}
        if kinds in ({str}, {int}, set()) and not any(str(key).startswith("$") for key in state):
            table = {str(key): _encode(item, _join(path, key), tensors) for key, item in state.items()}
            return {"$int_keys": table} if kinds == {int} else table
    raise CheckpointError("a part of the training state cannot be stored", got=type(state).__name__, where=path)


def unflatten(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild the state from what `flatten` gave. Raises CheckpointError if the two do not belong together."""
    if isinstance(content, list):
        return [unflatten(item, tensors) for item in content]
    if not isinstance(content, dict):
        return content
    marks = [key for key in content if key.startswith("$")]
    if not marks:
        return {key: unflatten(item, tensors) for key, item in content.items()}
    try:
        return _decode(marks[0], content[marks[0]], tensors)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError("a training state does not fit its tensors", got=repr(error), where=marks[0]) from None


def _decode(mark: str, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if mark == "$tensor":
        return tensors[value]
    if mark == "$tuple":
        return tuple(unflatten(item, tensors) for item in value)
    if mark == "$int_keys":
        return {int(key): unflatten(item, tensors) for key, item in value.items()}
    if mark == "$float":
        return {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[value]
    raise KeyError(mark)
