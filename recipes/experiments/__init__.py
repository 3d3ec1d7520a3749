"""Experiments: networks, methods and settings, and how the options of a command become them."""
