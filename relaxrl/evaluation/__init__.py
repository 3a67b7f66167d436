"""Agents and classical optimizers on the same starting structures: runs, statistics, tables, plots."""

from relaxrl.evaluation.compare import Comparison, evaluate
from relaxrl.evaluation.methods import method_names
from relaxrl.evaluation.output import write_report
from relaxrl.evaluation.run import Limits, RunRecord
from relaxrl.evaluation.summary import MethodSummary, SetSummary

__all__ = [
    "Comparison",
    "Limits",
    "MethodSummary",
    "RunRecord",
    "SetSummary",
    "evaluate",
    "method_names",
    "write_report",
]
