"""Recipes: the papers' experiments, and yours, from the command line."""
