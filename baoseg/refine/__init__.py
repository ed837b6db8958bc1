"""Refinement of maps and masks by the picture, after they were made."""
