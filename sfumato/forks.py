"""What a process that was forked must do before it computes: its parent's threads did not come along.

A pool of threads that the parent has used waits, in the child, for threads that are not there, and hangs for
ever.  So a child works with one thread, which needs no pool.
"""

from __future__ import annotations

import os
import sys


def _one_thread() -> None:
    """In the child, right after the fork."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def guard() -> None:
    """Once a process, before it computes: its forked children work with one thread each."""
    global _guarded
    if not _guarded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)
        _guarded = True


_guarded = False
