"""Models: loading, finding their layers, checking what they cannot do, and the optimizers over them."""
