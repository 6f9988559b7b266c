"""A record of the images, or sounds, that could not be read: each is named once, and too many stop the run."""

import logging
import threading

from fusionjax.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 3


class BadImages:
    """Unreadable images of one source. Safe to use from many threads.

    Args:
        what: they are, in a message.
    """

    def __init__(self, what: str = "image") -> None:
        self._what = what
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def record(self, name: str, reason: str) -> None:
        """Remembers an image and logs it, the first time that it is seen."""
        with self._lock:
            if name in self._reasons:
                return
            self._reasons[name] = reason
        log.warning("unreadable %s %s: %s", self._what, name, reason)

    @property
    def count(self) -> int:
        """How many different images."""
        return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """name → what is wrong with it."""
        with self._lock:
            return dict(self._reasons)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were met."""
        with self._lock:
            return tuple(self._reasons)

    @property
    def messages(self) -> tuple[str, ...]:
        """ "name (reason)" of the first few."""
        with self._lock:
            return tuple(f"{n} ({r})" for n, r in list(self._reasons.items())[:_SHOWN])

    def check(self, epoch_size: int, max_fraction: float) -> None:
        """Stops the run when too many of an epoch's images are unreadable.

        Args:
            epoch_size: images in the source.
            max_fraction: `data.max_bad_fraction`.

        Raises:
            UserError: the share is exceeded; the first few images and what is wrong with them.
        """
        if self.count > max_fraction * epoch_size:
            raise UserError(
                f"{self.count} of {epoch_size} {self._what}s are unreadable, more than "
                f"config.data.max_bad_fraction={max_fraction:g} allows: {'; '.join(self.messages)}"
                f"{' …' if self.count > _SHOWN else ''}; mend or remove them"
            )
