"""The studies that docs/study.md reports, fixed before their first runs."""

from __future__ import annotations

from temporal_sae.study.toy import TOY

DESIGNS = {design.name: design for design in (TOY,)}
