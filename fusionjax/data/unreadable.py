"""Images and audio files that cannot be read: the reason of each, and a record that stops the run when there are too many."""

import errno
import logging
import threading

import cv2

from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 3
_MACHINE = {
    errno.EMFILE: "too many files are open in this process (ulimit -n shows the limit)",
    errno.ENFILE: "too many files are open on this machine",
}
"""Errors of the system that any other file would meet too."""


_OF_THE_FILE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors of the system that the same path meets at every try."""


class Passing(str):
    """A reason that may pass without a change of the file: an error of the disk, the network or the permissions."""


class DecodeError(Exception):
    """An image or audio file cannot be read; the message is the reason, one line."""


def decode_error(error: Exception) -> DecodeError:
    """The reason why a file cannot be read, from whatever a library raised while reading it.

    Raises:
        MemoryError, UserError, OSError: `error` itself, or the MemoryError that a library put in other words, where the cause
            is not the file. Such an error must not count as an unreadable file.
    """
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, UserError | MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE):
        raise error
    if _is_memory(error):
        raise MemoryError(str(error)) from error
    if isinstance(error, FileNotFoundError):
        return DecodeError("there is no such file")
    if isinstance(error, OSError) and error.strerror:
        said = f"the system says: {error.strerror}"
        return DecodeError(said if error.errno in _OF_THE_FILE else Passing(said))
    if (
        type(error) is OSError
    ):  # without a number it is a library's own, on damage, or of `files.check_readable`
        words = str(error)
    else:
        # libsndfile's own message: its exception puts the name of a file object before it.
        words = getattr(error, "error_string", "") or f"{type(error).__name__}: {error}"
    return DecodeError(" ".join(words.split())[:300])


def why_unreadable(error: Exception, name: str) -> str:
    """The reason why the file `name` cannot be read, one line, a `Passing` where it may pass; see `decode_error`.

    Raises:
        UserError: the cause is not the file but the machine or the installation; the message says what to do.
        OSError: as `decode_error`.
    """
    try:
        found = decode_error(error)
        return found.args[0] if found.args and isinstance(found.args[0], str) else str(found)
    except MemoryError:
        raise UserError(
            f"there is not enough memory to read {name}: lower config.data.threads, config.data.prefetch or the batch "
            "size, or set config.data.max_pixels below the size of this image to leave it out"
        ) from error
    except OSError as e:
        raise UserError(f"{name} cannot be read: {_MACHINE.get(e.errno or 0, str(e))}") from error


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, cv2.error) and getattr(error, "code", None) == cv2.Error.StsNoMem:
            return True
        error = error.__cause__
    return False


class BadImages:
    """The unreadable images (or audio files) of one source. Thread-safe.

    Args:
        what: the singular noun for them in messages.
    """

    def __init__(self, what: str = "image") -> None:
        self._what = what
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def record(self, name: str, reason: str) -> None:
        """Adds a file and logs it; a name that was recorded before is ignored.

        Args:
            name: of the example or file.
            reason: why it cannot be read, one line.
        """
        with self._lock:
            if name in self._reasons:
                return
            self._reasons[name] = reason
        log.warning("unreadable %s %s: %s", self._what, name, reason)

    @property
    def count(self) -> int:
        """The number of different names."""
        return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """name → reason, in the order in which they were recorded."""
        with self._lock:
            return dict(self._reasons)

    @property
    def passing(self) -> tuple[str, ...]:
        """The names of those whose reason may pass."""
        with self._lock:
            return tuple(name for name, reason in self._reasons.items() if isinstance(reason, Passing))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they were recorded."""
        with self._lock:
            return tuple(self._reasons)

    @property
    def messages(self) -> tuple[str, ...]:
        """ "name (reason)" of the first three."""
        with self._lock:
            return tuple(f"{n} ({r})" for n, r in list(self._reasons.items())[:_SHOWN])

    def check(self, epoch_size: int, max_fraction: float) -> None:
        """Raises when too large a fraction of the source is unreadable.

        Args:
            epoch_size: number of images in the source.
            max_fraction: allowed fraction, `data.max_bad_fraction`.

        Raises:
            UserError: the fraction is exceeded; the message names the first three images and the reasons.
        """
        if self.count > max_fraction * epoch_size:
            raise UserError(
                f"{self.count} of {epoch_size} {self._what}s are unreadable, more than "
                f"config.data.max_bad_fraction={max_fraction:g} allows: {'; '.join(self.messages)}"
                f"{' …' if self.count > _SHOWN else ''}; fix or remove them"
            )
