"""A trained agent as an ASE optimizer, with the safeguard that makes it converge."""
