"""The report: models on one data set, in one HTML file that needs nothing else."""

from latently.interfaces.report.record import Entry
from latently.interfaces.report.write import write_report

__all__ = ["Entry", "write_report"]
