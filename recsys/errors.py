"""The one tree of errors. Every message says what was wrong and how to fix it."""

from __future__ import annotations

from typing import ClassVar


class RecsysError(Exception):
    """Base of all errors that this project raises on purpose."""

    transient: ClassVar[bool] = False  # whether the same again, a while later, may go well: nights then try again


class InputError(RecsysError):
    """What the user gave cannot be used: a missing column, an empty file, a wrong format, a bad option."""


class ImportUnderWayError(InputError):
    """An import has not come to its end: it is at work, or was killed and has to be run again."""

    transient = True


class NothingToDoError(RecsysError):
    """A step has nothing to make of this data set; the message says why. It ends as skipped and holds nothing up."""


class TooFewLabelsError(InputError, NothingToDoError):
    """The label windows hold too little to learn or to judge by; the message says what to load or to change."""


class DatabaseAwayError(RecsysError):
    """The embedded Postgres did not start, or went away."""

    transient = True


class ShopReplacedError(RecsysError):
    """The database was emptied for another shop's data while a step worked on the former's."""

    transient = True


class NotFoundError(RecsysError):
    """A thing that was named does not exist: a data set, an artifact, a publication."""


class ArtifactError(RecsysError):
    """An artifact is damaged, incomplete or not of the expected kind."""


class ModelError(RecsysError):
    """A model is not usable: not finite, not fitted, or fitted for another purpose than asked for."""


class PublicationError(RecsysError):
    """A publication breaks an invariant and was refused; the former one keeps serving."""


class FencedError(PublicationError):
    """A publisher was refused because the pointer has moved since it read its fence number."""

    transient = True


class NewerDataError(PublicationError):
    """What is published is of newer data and stays."""


class HousekeepingError(RecsysError):
    """Something that should have ended is still there; the message names it."""

    transient = True


class EmptyResultError(RecsysError):
    """A step wrote nothing, or too little to be true."""
