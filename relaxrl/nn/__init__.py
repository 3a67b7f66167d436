"""Networks that know graphs, not reinforcement learning."""
