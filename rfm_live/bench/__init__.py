"""What this machine does with the engine, measured beside a peer and against the bytes that must move.

Used by `rfm-live bench` and `rfm-live doctor` only.
"""
