"""A process that draws pictures of ever other shapes must not grow."""

import subprocess
import sys

import pytest

PROGRAM = """
import random, sys
import psutil
from hsruntime import Session

pick, me, seen = random.Random(3).choice, psutil.Process(), []
with Session.open(sys.argv[1], threads=1) as session:
    for _ in range(int(sys.argv[2])):
        session.generate(
            ["fox"] * pick([1, 2, 3, 4]),
            width=pick(range(8, 25, 4)),
            height=pick(range(8, 25, 4)),
            guidance_scale=pick([1, 3.5]),
            schedule=pick(["large:1,hybrid:1,small:1", "small:1", "large:1"]),
        )
        seen.append(me.memory_info().rss)
half = len(seen) // 2
print(max(seen[:half]), max(seen[half:]))
"""


@pytest.mark.slow
def test_a_thousand_pictures_of_random_shapes_take_no_more_than_the_first_half_of_them(tiny_bundle):
    asked = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tiny_bundle), "1000"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    first, second = map(int, told.split())
    assert second <= first + 8 * 2**20, f"{first / 2**20:.0f} MiB, then {second / 2**20:.0f} MiB"
