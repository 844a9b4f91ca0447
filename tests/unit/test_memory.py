"""Freed memory stays with a training process, unless its user has set up the allocator otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROBE = """
import numpy as np
from cromss.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

kept, before = keep_freed_memory(), resident()
block = np.ones(2**23)  # 64 MB
del block
print(kept, resident() - before > 2**25)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize(
    ("variables", "answer"), [({}, "True True"), ({"MALLOC_ARENA_MAX": "2"}, "False False")], ids=["plain", "set up"]
)
def test_what_a_process_frees_stays_resident(variables, answer):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment | variables, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == answer
