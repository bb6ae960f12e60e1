"""Sweeps: unions of grids, one isolated job after the other, tuned settings, and what came of it. Imports no torch."""
