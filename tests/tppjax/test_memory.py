"""Memory that the process keeps: the pages of a large temporary array are not asked for at every call."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import jax
import jax.numpy as jnp
import tppjax
memory = tppjax.memory
if sys.argv[1] == "keep":
    memory.keep()
fn = jax.jit(lambda x: jnp.fft.irfft(jnp.fft.rfft(x)).sum())
x = jnp.ones((4096, 4096))
for _ in range(10):
    fn(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fn(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_pages_of_a_temporary_array_are_kept():
    asked = {}
    for how in ("keep", "return"):
        asked[how] = int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, check=True).stdout)
    assert 10 * 16384 < asked["return"]  # 64 MiB are 16384 pages
    assert asked["keep"] < asked["return"] / 3  # the heap may still grow
