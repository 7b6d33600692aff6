"""rfm_live: play a music model live. Importing the package loads neither torch nor a device."""

__version__ = "0.1.0"
