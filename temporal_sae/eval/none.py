"""The evaluation of `eval=none`."""

from __future__ import annotations

from typing import Any


class NoEvaluation:
    """Measures nothing and needs no held-out text."""

    name = "none"
    needs_held_out_text = False
    metric_names = ()

    def options(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def run(self, *_: Any) -> dict[str, dict[str, float]]:
        """No metrics."""
        return {}
