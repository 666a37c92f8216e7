"""How soon the disk under a folder says that something is safe: without it no durable figure means anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter

WRITE_BYTES = 4_096


def flush_latency_ms(folder: Path, seconds: float) -> tuple[float, float]:
    """p50 and p99 of one 4 KB append and fdatasync, in milliseconds."""
    block = os.urandom(WRITE_BYTES)
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        until = perf_counter() + seconds
        while (started := perf_counter()) < until:
            file.write(block)
            os.fdatasync(file.fileno())
            took.append(perf_counter() - started)
    took.sort()
    return took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3
