"""Reports on finished runs."""

from temporal_sae.report.build import build_report, print_summary

__all__ = ["build_report", "print_summary"]
