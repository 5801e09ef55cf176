"""The words of docs/study.md that do not come from its tables."""

INTRODUCTION = """# Does co-activation help, and does time?
"""
