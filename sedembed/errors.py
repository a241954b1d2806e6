"""Every error that sedembed raises on purpose: a `SedembedError`, and the builtin that a caller would expect."""

from __future__ import annotations

__all__ = [
    "AudioDecodeError",
    "AudioError",
    "AudioTimeoutError",
    "DatasetError",
    "DivergedError",
    "DownloadError",
    "ForkedProcessError",
    "InvalidArgumentError",
    "InvalidTypeError",
    "InvalidWaveformError",
    "MissingFileError",
    "MissingPackageError",
    "MissingVectorError",
    "ModelNotFoundError",
    "NotAFileError",
    "NotAFolderError",
    "OfflineError",
    "ProbeError",
    "SedembedError",
    "StoreError",
    "UnreadableFileError",
    "UnsupportedFormatError",
    "UploadError",
    "WeightsError",
    "WriteError",
]


class SedembedError(Exception):
    """Base class of all errors raised by sedembed."""


class InvalidArgumentError(SedembedError, ValueError):
    """An argument or option with a value that is not allowed."""


class InvalidTypeError(SedembedError, TypeError):
    """An argument of a type that is not allowed."""


class MissingVectorError(SedembedError, KeyError, IndexError):
    """A path or a row that a store does not have."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would put the sentence in quotes


class MissingFileError(SedembedError, FileNotFoundError):
    """A file or folder that is not there, or a folder that holds no recordings."""


class UnreadableFileError(SedembedError, PermissionError):
    """A file or folder that may not be read."""


class NotAFileError(SedembedError, IsADirectoryError):
    """A folder where a file was expected."""


class NotAFolderError(SedembedError, NotADirectoryError):
    """A file where a folder was expected."""


class AudioError(SedembedError, ValueError):
    """A sound that cannot be used."""


class InvalidWaveformError(AudioError):
    """Samples that break the input rules: NaN, empty, complex, wrong axes, wrong rate."""


class AudioDecodeError(AudioError):
    """A file that exists but holds no readable sound."""


class UnsupportedFormatError(AudioDecodeError):
    """A format that none of the installed decoders reads."""


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


class UploadError(SedembedError, OSError):
    """Weights or a probe that could not be published."""


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


class ForkedProcessError(SedembedError, RuntimeError):
    """A model of an engine whose threads a forked process does not have."""


class DivergedError(SedembedError, FloatingPointError):
    """A training whose loss, gradients or weights are no longer finite."""
