"""The training loops: act, store, update, evaluate, checkpoint."""
