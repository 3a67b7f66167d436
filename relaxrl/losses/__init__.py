"""Pure loss functions: they know tensors, not networks."""
