"""Train and evaluate sparse autoencoders: `python launch.py --help` explains everything."""

from __future__ import annotations

from temporal_sae import signals

if __name__ == "__main__":
    signals.hold()  # before the imports, which take seconds and lose what a signal raises in them

from temporal_sae.cli import launch, main

__all__ = ["launch"]

if __name__ == "__main__":
    main()
