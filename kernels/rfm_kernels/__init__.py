"""Steering kernels and their plain reference. Importing the package loads nothing."""
