"""What ships with the package: a model, a corpus, and the scripts that build them."""
