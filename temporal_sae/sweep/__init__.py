"""Sweeps: many runs of one command, each in its own folder, that can be looked at and continued.

Hydra imports parts of this room at every start of `launch.py`: modules here import what is slow
(torch, rich, pyarrow, optuna) inside their functions.
"""
