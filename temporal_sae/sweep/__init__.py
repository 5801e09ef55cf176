"""Sweeps: many runs of one command, each in its own folder, that can be looked at and continued.

Modules that the command of a sweep imports before its workers run import what is slow (torch,
pyarrow) inside their functions.
"""
