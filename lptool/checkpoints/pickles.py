"""Pickles, read without running anything: an interpreter of their instructions that calls and imports nothing.

A pickle is a program for a machine with a stack: it builds numbers, texts and containers, and calls functions by name.
Here a call of a function that `known` names goes to the function that stands there, which is ours; any other call, and
any class, becomes an `Inert`, which remembers the name and does nothing. So no content of a file can run code, and what
a checkpoint holds beside its tensors does no harm and does not matter.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lptool.errors import one_line

_KEYS = (str, int, float, bool, bytes, type(None))  # deep tuples as keys of a dictionary could end the process
# Names that Python 2 gave, and those of today.
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core.multiarray": "numpy._core.multiarray"}


@dataclass(frozen=True, eq=False)
class Inert:
    """What stands for a class, an object or what a function would have returned, by the name in the pickle."""

    name: str
    made: bool = False  # an object or result, and not the class or function itself

    def __str__(self) -> str:
        return one_line(self.name)[:100]


class Stateful:
    """What a function of ours returned and wants what the pickle says of its attributes."""

    def set_state(self, state: Any) -> None:
        """Called once for each time that the pickle gives some."""
        raise NotImplementedError


class Stream(Protocol):
    """What a pickle is read from."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


def unpickle(stream: Stream, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]) -> Any:
    """What a pickle holds, and `Inert` in place of what would have to be called. Leaves the stream after it.

    Args:
        known: functions of ours by the dotted name of those in the pickle that they stand for.
        persistent: from what a pickle says of something outside it, such as a tensor's bytes, to what stands for it.

    Raises:
        ValueError, IndexError, KeyError, TypeError: a damaged pickle.
    """
    machine = _Machine(known, persistent)
    for code, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        step = _STEPS.get(code.name)
        if step is not None:
            step(machine, argument)
        elif code.name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[code.name])
        elif code.arg is not None and code.stack_after and not code.stack_before:
            machine.stack.append(argument)  # numbers, texts and bytes, of all protocols
        elif code.name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"a pickle with {code.name}")
    return machine.stack.pop()


@dataclass
class _Machine:
    known: Mapping[str, Callable[..., Any]]
    persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int) -> list[Any]:
        """The topmost items, the lowest first."""
        if count > len(self.stack):
            raise ValueError("a pickle that takes what it never put down")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def since_mark(self) -> list[Any]:
        """All items above the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def call(self, function: Any, arguments: Any) -> Any:
        """What a function of ours makes of it; inert where the pickle calls another one, or ours with odd arguments."""
        if not isinstance(function, Inert) or function.made:
            return Inert("a call of what is no function", made=True)
        found = self.known.get(function.name)
        try:
            return found(*arguments) if found else Inert(function.name, made=True)
        except (TypeError, ValueError, AttributeError, LookupError):  # it may well be one that nobody needs
            return Inert(function.name, made=True)


def _class(module: Any, name: Any) -> Inert:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name in a pickle that is no text")
    return Inert(f"{_MODULES.get(module, module)}.{name}")


def _do(count: int, made: Callable[..., Any]) -> Callable[[_Machine, Any], None]:
    """A step that takes `count` items from the stack and puts down what is made of them."""
    return lambda machine, _: machine.stack.append(made(*machine.pop(count)))


def _collect(made: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """A step that takes all items above the mark and puts down what is made of them."""
    return lambda machine, _: machine.stack.append(made(machine.since_mark()))


def _add(container: Any, items: list[Any]) -> Any:
    if isinstance(container, list):
        container += items
    return container


def _set(container: Any, items: list[Any]) -> Any:
    """Keys and values in turns into a dictionary; what an object of a class makes of them is not known."""
    if isinstance(container, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        container.update((key, value) for key, value in pairs if type(key) in _KEYS)
    return container


def _new(cls: Any) -> Inert:
    return Inert(cls.name if isinstance(cls, Inert) else "an object of what is no class", made=True)


def _inst(machine: _Machine, names: Any) -> None:
    machine.since_mark()
    machine.stack.append(_new(_class(*names.split(" ", 1))))


def _build(made: Any, state: Any) -> Any:
    """An object's attributes: nothing to those of a file; one that a function of ours made may want them."""
    if isinstance(made, Stateful):
        made.set_state(state)
    return made


def _extension(machine: _Machine, number: Any) -> None:
    machine.stack.append(Inert(f"copyreg's extension {number}"))


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: _Machine, place: Any) -> None:
    machine.memo[place] = machine.stack[-1]


def _get(machine: _Machine, place: Any) -> None:
    machine.stack.append(machine.memo[place])


def _many(change: Callable[[Any, list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """A step that adds all items above the mark to the container below it."""

    def step(machine: _Machine, _: Any) -> None:
        items = machine.since_mark()
        (container,) = machine.pop(1)
        machine.stack.append(change(container, items))

    return step


def _pop(machine: _Machine, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop(1)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "EMPTY_TUPLE": _do(0, tuple),
    "EMPTY_LIST": _do(0, list),
    "EMPTY_DICT": _do(0, dict),
    "EMPTY_SET": _do(0, lambda: Inert("builtins.set", made=True)),
    "TUPLE": _collect(tuple),
    "LIST": _collect(list),
    "DICT": _collect(lambda items: _set({}, items)),
    "FROZENSET": _collect(lambda items: Inert("builtins.frozenset", made=True)),
    "TUPLE1": _do(1, lambda a: (a,)),
    "TUPLE2": _do(2, lambda a, b: (a, b)),
    "TUPLE3": _do(3, lambda a, b, c: (a, b, c)),
    "APPEND": _do(2, lambda container, item: _add(container, [item])),
    "APPENDS": _many(_add),
    "SETITEM": _do(3, lambda container, key, value: _set(container, [key, value])),
    "SETITEMS": _many(_set),
    "ADDITEMS": _many(lambda container, items: container),
    "GLOBAL": lambda machine, names: machine.stack.append(_class(*names.split(" ", 1))),
    "STACK_GLOBAL": _do(2, _class),
    "REDUCE": lambda machine, _: machine.stack.append(machine.call(*machine.pop(2))),
    "NEWOBJ": _do(2, lambda cls, arguments: _new(cls)),
    "NEWOBJ_EX": _do(3, lambda cls, arguments, options: _new(cls)),
    "INST": _inst,
    "OBJ": _collect(lambda items: _new(items[0])),
    "BUILD": _do(2, _build),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    "PERSID": lambda machine, name: machine.stack.append(machine.persistent(name)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(*machine.pop(1))),
}
