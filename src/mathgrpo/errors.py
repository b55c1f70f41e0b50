"""The one exception a user is meant to see."""


class UserError(Exception):
    """Bad input, said in one line: field=value, what is wrong, what is allowed, the remedy.

    The command line prints the message without a traceback and exits with code 2.

    Example:
        >>> raise UserError("rollout.group_size=1: every advantage would be 0; use 2 or more")
        Traceback (most recent call last):
        ...
        mathgrpo.errors.UserError: rollout.group_size=1: every advantage would be 0; use 2 or more
    """
