"""The steps of `pipeline`, each in a file."""
