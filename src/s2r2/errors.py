"""The exceptions that mean: the user can put this right."""


class S2R2Error(Exception):
    r"""A mistake or a condition outside the program, said in one line.

    The message names what is wrong, where, and what to do. The command line prints it without a
    traceback and leaves with exit code 2. A line break in a name that it quotes is shown as ``\n``.
    """

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")


class ArgumentError(S2R2Error, ValueError):
    """An argument cannot be what it is.

    The message names arguments in backticks, as they are given in Python: ```batch_size=64` is larger than the data``.
    The command line shows them as its options (:mod:`s2r2.system.wording`).
    """


class MistakesError(S2R2Error):
    """Several mistakes at once, each on a line.

    Attributes:
        lines: How many, and each of them.
    """

    def __init__(self, lines: list[str]) -> None:
        self.lines = [line.replace("\n", "\\n") for line in lines]
        super().__init__("\n  ".join(self.lines))

    def __str__(self) -> str:
        return "\n  ".join(self.lines)


class ArgumentsError(MistakesError, ArgumentError):
    """Several arguments cannot be what they are."""


class NonFiniteError(S2R2Error):
    """An embedding or a loss is NaN or infinite."""


class SharedError(S2R2Error):
    """An error that another of several processes says: this one has it too, or lost that one by it."""


class UnreadableImage(S2R2Error):
    """An image that cannot be decoded.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)
