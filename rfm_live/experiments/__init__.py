"""The experiments of `rfm-live evaluate`: what concept knobs do to music, by meters that never saw a probe.

`conditions` plays and keeps, `measures` and `drift` judge, `report` and `plots` tell; one module for each experiment
says what is played and what follows from it. Nobody imports this package but the command line.
"""
