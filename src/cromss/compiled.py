"""Functions that Numba compiles to machine code on first use: loops over pixels that no library has as one call.

In: a function of arrays and numbers. Out: the same function, compiled for the types that it is called with, and kept on
disk where a folder beside the source, or the user's cache, can be written to.

Importing this module imports the compiler, half a second: import it, and what uses it, where the function is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["ANY_ORDER", "compiled"]

ANY_ORDER = frozenset({"reassoc", "contract", "nsz"})
"""Leave to round off: sums in another order, a b + c rounded once. NaN and infinity keep their meaning."""


def compiled(*, any_order: bool = False) -> Callable[[Any], Any]:
    """A decorator. any_order: sums may be taken in any order, which lets the compiler use wide registers."""
    options: dict[str, Any] = {"nogil": True, "fastmath": set(ANY_ORDER) if any_order else False}

    def compile_or_load(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder that a cache could be written to
            return numba.njit(**options)(function)

    return compile_or_load
