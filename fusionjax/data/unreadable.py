"""A record of the images or audio files that could not be read: each is logged once, and too many stop the run."""

import logging
import threading

from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 3


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
