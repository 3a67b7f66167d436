"""TD3 and what it needs: replay, expert, exploration, curriculum, shipped models."""
