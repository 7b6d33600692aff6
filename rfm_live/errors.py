"""Our exceptions: what outside input may raise. Messages are lower case; they name thing, value and domain."""


class RfmError(Exception):
    """Root of every error that a user's input, file or machine can cause."""


class CheckpointError(RfmError):
    """A model checkpoint is missing, broken, foreign or unsupported; names the file, the key and the reason."""


class BankError(RfmError):
    """A concept bank is broken or belongs to another checkpoint."""


class ControlError(RfmError):
    """A control message names no address, or carries a value outside the address's domain."""


class AudioError(RfmError):
    """A sound device cannot be opened or has failed."""


class StartError(RfmError):
    """The program cannot start with these options on this machine."""


class ClipError(RfmError):
    """Audio to learn a concept from is missing, broken or unfit; names the file or the row, and the reason."""
