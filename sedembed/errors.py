"""Every error sedembed raises on purpose; each also is the builtin a caller would expect to catch."""

from __future__ import annotations

__all__ = [
    "AudioDecodeError",
    "AudioError",
    "AudioTimeoutError",
    "DatasetError",
    "DivergedError",
    "DownloadError",
    "InvalidArgumentError",
    "InvalidWaveformError",
    "MissingFolderError",
    "MissingPackageError",
    "ModelNotFoundError",
    "NotAFolderError",
    "OfflineError",
    "ProbeError",
    "SedembedError",
    "StoreError",
    "UnsupportedFormatError",
    "WeightsError",
    "WriteError",
]


class SedembedError(Exception):
    """Base class of all errors raised by sedembed."""


class InvalidArgumentError(SedembedError, ValueError):
    """An argument or option with a value that is not allowed."""


class MissingFolderError(SedembedError, FileNotFoundError):
    """A folder or file of recordings that is not there, or holds no recordings."""


class NotAFolderError(SedembedError, NotADirectoryError):
    """A file where a folder was expected."""


class AudioError(SedembedError, ValueError):
    """A sound that cannot be used."""


class InvalidWaveformError(AudioError):
    """Samples that break the input rules: NaN, empty, complex, wrong axes, wrong rate."""


class AudioDecodeError(AudioError):
    """A file that exists but holds no readable sound."""


class UnsupportedFormatError(AudioDecodeError):
    """A format that neither libsndfile nor an installed ffmpeg reads."""


class AudioTimeoutError(AudioDecodeError, TimeoutError):
    """A decoder that stopped giving samples."""


class ModelNotFoundError(SedembedError, LookupError):
    """A model name or path that leads to nothing."""


class WeightsError(SedembedError, ValueError):
    """Weights that are damaged, unsafe, or do not fit the architecture."""


class DownloadError(SedembedError, OSError):
    """Weights that could not be fetched."""


class OfflineError(DownloadError):
    """Weights that are not on this machine while connections are not allowed."""


class StoreError(SedembedError, ValueError):
    """A store that is missing, foreign, of other settings, or not writable."""


class WriteError(StoreError, OSError):
    """A file that could not be written."""


class DatasetError(SedembedError, ValueError):
    """A copy of a target task's data that is missing, incomplete or laid out otherwise."""


class ProbeError(SedembedError, ValueError):
    """A probe or labels that are damaged, or do not fit the vectors they are used with."""


class MissingPackageError(SedembedError, ImportError, ValueError):
    """A package that is not installed, of an extra."""


class DivergedError(SedembedError, FloatingPointError):
    """A training whose loss, gradients or weights are no longer finite."""
