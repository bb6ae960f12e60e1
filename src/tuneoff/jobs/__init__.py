"""A job and its processes: what it does, how it is supervised and limited, which devices it gets."""
