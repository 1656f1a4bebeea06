"""What can go wrong, said so that the reader can act: what, where (the user's own line), and what to do instead.

Every exception that backlit raises on purpose is an `Error` and also the built-in exception that a Python programmer
would expect, so that `except ValueError` keeps working.
"""

from __future__ import annotations

from collections.abc import Sequence

from backlit.sites import Site, user_site


class Error(Exception):
    """An error with an address.

    `what` says what is wrong; `op` names the operation, `caller` the function that the user called where that is
    another; `inputs` are the types of the op's inputs, already as text; `fix` says what to do instead; `site` is the
    user's line (found on the stack when it is not given).
    """

    def __init__(
        self,
        what: str,
        *,
        fix: str = "",
        op: str = "",
        inputs: Sequence[object] = (),
        site: Site | None = None,
    ) -> None:
        self.what, self.fix, self.op, self.caller = what, fix, op, ""
        self.inputs = tuple(str(i) for i in inputs)
        self.site = site if site is not None else user_site()
        super().__init__(str(self))

    def within(self, op: str, inputs: Sequence[object] = ()) -> Error:
        """The same error, told from inside `op`; what is known already is kept."""
        if not self.op:
            self.op = op
        elif self.op != op:
            self.caller = op
        self.inputs = self.inputs or tuple(str(i) for i in inputs)
        self.args = (str(self),)
        return self

    def __str__(self) -> str:
        where = f"{self.caller}, in its {self.op}: " if self.caller else f"{self.op}: " if self.op else ""
        lines = [where + self.what]
        if self.inputs:
            lines.append(f"  inputs: {', '.join(self.inputs)}")
        if self.site is not None:
            lines.append(f"  at {self.site.describe()}")
        if self.fix:
            lines.append(f"  {self.fix}")
        return "\n".join(lines)


class ShapeError(Error, ValueError):
    """Shapes, axes or lengths that do not fit."""


class DtypeError(Error, TypeError):
    """Dtypes that may not be mixed, or that an op does not take."""


class ControlFlowError(Error, TypeError):
    """Python asked a traced value for its number: it has none while a function is being traced."""


class MissingMethodError(Error, AttributeError):
    """A method of NumPy's arrays that traced values do not have."""


class GradientError(Error, ValueError):
    """A derivative was asked for where there is none."""


class StructureError(Error, TypeError):
    """An argument that is no nested dict, list, tuple or dataclass of arrays, or two that differ in structure."""


class IndexingError(Error, IndexError):
    """An index that is out of range or of the wrong kind."""


class LegalityError(Error, RuntimeError):
    """A graph that breaks the rules of the intermediate representation: a bug in backlit, not in the user's code."""


class UnsupportedError(Error, NotImplementedError):
    """Something that an executor cannot run, named."""


class DataError(Error, ValueError):
    """Data that cannot be learned from as it is: wrong shapes, words in a number column, missing or infinite values."""


class DonationError(Error, ValueError):
    """An array that was given away to be written over, and cannot be: read-only, say, or needed for something else."""


class CheckpointError(Error, ValueError):
    """A file that is no model or checkpoint of ours, is damaged, or does not belong to what it is loaded into."""


class DivergenceError(Error, ArithmeticError):
    """Training came upon a value that is infinite or not a number."""


class SettingError(Error, ValueError):
    """A setting that does not exist, or a value that it cannot have."""


class DistributedError(Error, RuntimeError):
    """Processes that were to compute together and could not: they did not meet, differ, or one of them is lost."""
