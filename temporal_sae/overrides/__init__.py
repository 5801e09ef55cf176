"""From what a person types to the overrides of every job of a sweep, and to their configs.

Nothing here knows of folders, workers or results.
"""
