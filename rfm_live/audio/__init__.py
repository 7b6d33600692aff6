"""Playout: from the tape to a sound card, JACK, a clock or a file. Runs in its own process; loads no torch."""
