"""Steering kernels and their plain reference. Importing the package loads nothing.

`reference` is numpy and the specification of the randomness; `plain` is torch and the specification of every kernel;
`fused` launches the Triton kernels of `triton_kernels` with the signatures of `plain`; `backend.kernels_for` chooses.
"""
