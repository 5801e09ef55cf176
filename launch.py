"""Train and evaluate sparse autoencoders: `python launch.py --help` explains everything."""

from __future__ import annotations

from temporal_sae import signals

if __name__ == "__main__":
    signals.hold()  # before the imports, which take seconds and lose what a signal raises in them

from pathlib import Path

import hydra
from omegaconf import DictConfig

from temporal_sae.cli import run_command_line, run_job

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def launch(cfg: DictConfig) -> float:
    """Run one composed config; returns its objective."""
    return run_job(cfg)


if __name__ == "__main__":
    run_command_line(launch, CONF)
