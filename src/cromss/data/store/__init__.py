"""The training store: random access to any season of any place, verified, in published formats, never a pickle.

In: `PlaceRecord`s, to a `StoreWriter`. Out: arrays, from a `Store`; a report on every byte, from `verify_store`.
The files are described in `store.layout`: safetensors shards, a parquet index, and store.json.
"""

from __future__ import annotations

from cromss.data.store.reader import Store
from cromss.data.store.verify import verify_store
from cromss.data.store.writer import EDITIONS, StoreWriter

__all__ = ["EDITIONS", "Store", "StoreWriter", "verify_store"]
