"""Agents that relax crystal and atomic structures in far fewer force evaluations than BFGS."""

__version__ = "0.1.0"
