"""What a program frees is there for its next call."""

import subprocess
import sys

import pytest

STEPS = """
import platform, resource
import torch
import purefn.functional as pf

def step(x):  # thirty blocks of a megabyte, needed until the end
    blocks = [x]
    for _ in range(30):
        blocks.append((blocks[-1] @ x).tanh())
    return sum(blocks[1:]).sum()

compiled, x = pf.jit(step), torch.randn(512, 512)
for _ in range(3):
    compiled(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    compiled(x)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults / 5 if platform.libc_ver()[0] == "glibc" else 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what glibc does")
def test_no_pages_are_got_again_at_every_call(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    run = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, timeout=300
    )
    # The blocks have 7,500 pages.
    assert float(run.stdout) < 100
