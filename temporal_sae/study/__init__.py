"""The experiments behind docs/study.md: designs, the sweeps that run them, and their analysis."""
