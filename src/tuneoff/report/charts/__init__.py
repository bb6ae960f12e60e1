"""The charts of a report, each a Vega-Lite specification."""
