"""`launch.py` for those who have the package without its sources: the script `temporal-sae`."""

from __future__ import annotations

from temporal_sae import signals


def main() -> None:
    """Run the command line."""
    signals.hold()  # before the imports, which take seconds and lose what a signal raises in them
    from temporal_sae import cli

    cli.main()


if __name__ == "__main__":
    main()
