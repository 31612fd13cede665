"""Recipes: frozen dataclasses, one file for each data set; a command shows them with --help."""
