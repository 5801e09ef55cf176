"""The studies that docs/study.md reports, fixed before their first runs."""

from __future__ import annotations

from temporal_sae.study import toy

DESIGNS = {design.name: design for design in (toy.TOY,)}
PREDICTIONS = {toy.TOY.name: toy.PREDICTIONS}
