"""From records to a table and figures for a paper. Stands on `tuneoff.record` alone: no torch, no network."""
