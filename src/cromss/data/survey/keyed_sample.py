"""A fixed number of things out of a stream of unknown length, the same ones in whatever order they come.

In: things with a name. Out: those `size` things whose key is the smallest.

    key = first 8 bytes of SHA-256(name)     so that each name is as likely as any other to stay
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["KeyedSample", "key_bound", "sample_key"]

T = TypeVar("T")


def sample_key(name: str) -> int:
    """A number from 0 to 2^64 - 1 that follows from the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def key_bound(size: int, total: int) -> float:
    """A key that the `size` smallest of at least `total` names stay below, all but surely.

    It is that of a quarter more, and of six standard deviations.
    """
    expected = 1.25 * size + 6 * math.sqrt(size)
    return 2.0**64 * expected / total if total > expected else math.inf


@dataclass(kw_only=True)
class KeyedSample(Generic[T]):
    """At most `size` things, by key. below: keys from this on have no chance, so nothing need be computed for them."""

    size: int
    below: float = float("inf")
    kept: dict[float, T] = field(default_factory=dict)

    def wants(self, key: float) -> bool:
        """Whether a thing of this key would stay."""
        return self.size > 0 and key < self.below

    def add(self, key: float, thing: T) -> None:
        """Keep the thing, and drop the one with the largest key where there are too many."""
        if not self.wants(key):
            return
        self.kept[key] = thing
        if len(self.kept) > self.size:
            del self.kept[max(self.kept)]
        if len(self.kept) == self.size:
            self.below = min(self.below, max(self.kept))

    def part(self) -> KeyedSample[T]:
        """An empty sample for a part of the stream, to be merged into this one."""
        return KeyedSample(size=self.size, below=self.below)

    def merge(self, other: KeyedSample[T]) -> None:
        """Take over what stays of another sample."""
        for key, thing in other.kept.items():
            self.add(key, thing)

    def things(self) -> list[T]:
        """What was kept, in the order of keys."""
        return [self.kept[key] for key in sorted(self.kept)]
