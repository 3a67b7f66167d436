"""Where episodes start: read, generate, perturb, split, weigh."""
