"""From nothing to the first picture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from hsengines.errors import HSError
from hsexport.measure.gpu_check.plan import PROMPT, Plan
from hsexport.measure.gpu_check.results import FirstPicture
from hsruntime import Session

# The kernel's own account: getrusage's begins with the memory of the process that started this one.
COMMAND = """
import atexit
from pathlib import Path
from hsexport.cli.main import main
status = Path("/proc/self/status")
atexit.register(lambda: print(status.read_text() if status.exists() else ""))
main()
"""


def first_picture(plan: Plan, bundle: Path) -> FirstPicture:
    """In a fresh process, its second start so that files are in the system's cache; then step by step in this one."""
    process_s, process_mib = [_fresh_process(plan, bundle) for _ in range(2)][-1]
    start = perf_counter()
    with Session.open(bundle, threads=plan.threads) as session:
        opened = perf_counter()
        session.warm_up()
        warm = perf_counter()
        first, following = (session.generate(PROMPT).seconds for _ in range(2))
    return FirstPicture(process_s, process_mib, opened - start, warm - opened, first, following)


def _fresh_process(plan: Plan, bundle: Path) -> tuple[float, float | None]:
    """Seconds and the most MiB of one `hsexport run`. Raises HSError with its last word if it fails."""
    with TemporaryDirectory() as folder:
        asked = ["--prompt", PROMPT, "--threads", str(plan.threads), "--out", f"{folder}/picture.png"]
        command = [sys.executable, "-c", COMMAND, "run", str(bundle), *asked]
        start = perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = perf_counter() - start
    if done.returncode:
        raise HSError(f"hsexport run ended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    peak = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
    return spent, int(peak[1]) / 1024 if peak else None
