"""The studies that docs/study.md reports, fixed before their first runs."""

from __future__ import annotations

from temporal_sae.study import bundled, toy, twin

DESIGNS = {design.name: design for design in (toy.TOY, twin.TWIN, twin.TWIN_K, bundled.BUNDLED)}
PREDICTIONS = {toy.TOY.name: toy.PREDICTIONS}
