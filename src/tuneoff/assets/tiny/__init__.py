"""`tuneoff:tiny`: a Llama of 5.8 million parameters."""
