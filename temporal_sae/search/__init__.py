"""A search for the best objective: what to try next, and trials as jobs of a sweep.

Modules here import optuna, which is slow and need not be installed, inside their functions.
"""
