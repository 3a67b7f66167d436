"""Structure in; energy, forces and stress out."""
