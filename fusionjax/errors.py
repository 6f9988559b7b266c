"""The one exception a user is meant to see."""


class UserError(Exception):
    """A mistake that the user can mend: a wrong key, a missing folder, a damaged file.

    The message is one line that names the thing, its value and what to do. Commands print it and leave with exit code 2;
    no traceback is shown.
    """
