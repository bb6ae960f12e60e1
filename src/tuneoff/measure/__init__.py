"""Measurements: memory by phase and by kind, and throughput."""
