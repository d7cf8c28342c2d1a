"""The three families of failure.

OverreadError
├── Transient     try again later: the other side or the machine is not ready
├── Permanent     trying again cannot help: an operator or a data scientist has to change something
│   └── NotAnalysed   this study cannot be analysed; `code` says why in one word, the message in one sentence
└── Refused       answer this DIMSE status and keep nothing (or set it aside)

A message says what was expected, what was found and in which object, and never carries patient data: UIDs are
allowed; names, numbers, dates and descriptions of a patient are not.
"""


class OverreadError(Exception):
    """Anything this application raises on purpose."""


class Transient(OverreadError):
    """Try again: a peer is away, a file system is full, a device is out of memory."""


class Permanent(OverreadError):
    """Do not try again: the input, the model or the configuration is wrong.

    `code` is the stable reason, in kebab case, that is kept of a study that is not analysed because of it.
    """

    code = "cannot-run"


class NotAnalysed(Permanent):
    """A wanted study cannot be analysed; shown by `overread explain` and `overread status`.

    Parameters
    ----------
    code : str
        Stable reason in kebab case, e.g. ``gap-in-stack``, ``too-few-slices``, ``mixed-orientation``.
    message : str
        One sentence with the value found and the value wanted.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(OverreadError):
    """Answer a DIMSE request with this status (PS3.7 Annex C, PS3.4 B.2.3).

    Parameters
    ----------
    status : int
        DIMSE status, e.g. ``0xA700`` out of resources, ``0xA900`` data set does not match, ``0xC000`` not understood.
    code, message : str
        Stable reason in kebab case, and one sentence for the operator.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
