"""Reads the pickle inside a torch checkpoint without running it.

Python's own unpickler calls whatever the file names. This one is a small machine over `pickletools.genops`
that knows data opcodes, a table of names that stand for inert constructors, and nothing else: a name outside
the table ends the reading before anything is called. Only plain scalars can be keys of a dict, so no nested
value is ever hashed.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from fusionjax.errors import UserError

Constructor = Callable[..., Any]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
}
_VALUES = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_KEYS = (str, bytes, int, float, type(None))
_MARK = object()


class Refused(UserError):
    """The file names something that reading tensors does not need."""


class Malformed(ValueError):
    """The bytes are not a pickle that torch writes."""


class _Name:
    """An allowed global: REDUCE runs its constructor; as a value (a storage type, a dtype) it is a name."""

    __slots__ = ("make", "path")

    def __init__(self, path: str, make: Constructor | None):
        self.path = path
        self.make = make


def name_of(value: Any) -> str | None:
    """The dotted path of an allowed global that appears as a value, else None."""
    return value.path if isinstance(value, _Name) else None


def load(
    stream: BinaryIO,
    names: Mapping[str, Constructor | None],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads one pickle from where the stream stands and leaves the stream after its end.

    Args:
        stream: has read, readline and tell, and returns fewer bytes at the end instead of allocating (BytesIO
          does).
        names: dotted path of every allowed global → the inert function that REDUCE calls, or None for a mere
          name.
        persistent: turns a persistent id into a value.

    Returns:
        The object: None, numbers, strings, bytes, tuples, lists (sets too), dicts, and what the constructors
          return.

    Raises:
        Refused: the pickle names a global outside `names`; the message holds the name.
        Malformed: anything else that is wrong; ValueError, IndexError and TypeError may come from pickletools
          too.
    """
    return _Machine(names, persistent).run(stream)


class _Machine:
    def __init__(self, names: Mapping[str, Constructor | None], persistent: Callable[[Any], Any] | None):
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return self.pop()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _PUTS:
                self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
            elif name in _GETS:
                if argument not in self.memo:
                    raise Malformed(f"memo {argument} was never stored")
                self.stack.append(self.memo[argument])
            elif name not in ("PROTO", "FRAME"):
                handler = getattr(self, f"op_{name.lower()}", None)
                if handler is None:
                    raise Malformed(f"opcode {name} does not occur in torch checkpoints")
                handler(argument)
        raise Malformed("no end")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("stack underflow")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def pop_to_mark(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise Malformed("no mark")
        self.stack.pop()
        return items[::-1]

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def extend(self, items: list[Any]) -> None:
        if type(self.top()) is not list:
            raise Malformed("items for something that is no list")
        self.top().extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise Malformed("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise Malformed("a dict key that is no plain scalar")
            target[key] = value

    def find(self, path: str) -> None:
        if path not in self.names:
            raise Refused(f"refuses to run {path[:200]!s}")
        self.stack.append(_Name(path, self.names[path]))

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: Any) -> None:
        if not self.stack:
            raise Malformed("stack underflow")
        self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.top())

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_tuple1(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_many(1)))

    def op_tuple2(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_many(2)))

    def op_tuple3(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_many(3)))

    def op_list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    op_frozenset = op_list

    def op_append(self, _: Any) -> None:
        self.extend(self.pop_many(1))

    def op_appends(self, _: Any) -> None:
        self.extend(self.pop_to_mark())

    op_additems = op_appends

    def op_dict(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.update(items)

    def op_setitem(self, _: Any) -> None:
        self.update(self.pop_many(2))

    def op_setitems(self, _: Any) -> None:
        self.update(self.pop_to_mark())

    def op_global(self, argument: str) -> None:
        self.find(argument.replace(" ", ".", 1))

    def op_inst(self, argument: str) -> None:
        # No object that torch writes needs it, so even an allowed name is refused.
        raise Refused(f"refuses to run {argument.replace(' ', '.', 1)[:200]}")

    def op_stack_global(self, _: Any) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("a global whose name is no text")
        self.find(f"{module}.{name}")

    def op_reduce(self, _: Any) -> None:
        function, arguments = self.pop_many(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise Malformed("a call of something that is no function")
        if function.make is None:
            raise Refused(f"refuses to run {function.path}")
        self.stack.append(function.make(*arguments))

    def op_build(self, _: Any) -> None:
        # The state of an OrderedDict (torch's _metadata) or of a tensor subclass: nothing here needs it.
        self.pop()
        self.top()

    def op_binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise Malformed("a storage outside the tensors' pickle")
        self.stack.append(self.persistent(self.pop()))
