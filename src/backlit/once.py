"""Properties that are worked out once, by whoever asks first.

`functools.cached_property` of Python 3.11 holds a lock meanwhile, one for all objects of a class. A process that is
forked while another thread works one out finds that lock closed for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_T = TypeVar("_T")


class once(Generic[_T]):
    """Makes a method a property whose value is kept in the object, frozen or not. Two threads may both work it out."""

    def __init__(self, method: Callable[[Any], _T]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> once[_T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _T: ...
    def __get__(self, instance: object, owner: type) -> once[_T] | _T:
        if instance is None:
            return self
        value = vars(instance)[self.method.__name__] = self.method(instance)
        return value
