"""Policies that other RL libraries trained, at work in relaxations; and our networks inside those libraries."""

from relaxrl.integrations.loading import is_foreign, load_foreign
from relaxrl.integrations.policy import ObservationPolicy

__all__ = ["ObservationPolicy", "is_foreign", "load_foreign"]
