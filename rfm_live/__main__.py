"""`python -m rfm_live`: the command line."""

from rfm_live.cli import main

main()
