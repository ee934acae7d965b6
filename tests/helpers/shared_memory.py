"""A process without room in shared memory, as in a container of docker, whose /dev/shm has 64 MB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = """
import resource
import torch  # with its own files, before
{imports}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    {work}
except Exception as error:
    print(type(error).__name__, error)
"""


def without_shared_memory(imports: str, work: str) -> str:
    """What a line of work prints where no file may have more than 100 kB, or the name and message of its error.

    A loader whose worker cannot hand over what it has read, and does not say so, waits for ever.
    """
    if sys.platform != "linux":
        pytest.skip("other systems limit shared memory in other ways")
    code = LIMIT.format(imports=imports, work=work)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    words, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
