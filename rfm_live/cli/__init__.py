"""The command line, `rfm-live`. Each command has a module of its own; none loads torch before it needs it."""

from rfm_live.cli.app import app, main

__all__ = ["app", "main"]
