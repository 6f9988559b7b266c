"""Reads the pickle inside a torch checkpoint without running it.

Python's own unpickler calls whatever the file names. This reader is a small stack machine over `pickletools.genops` that only
supports data opcodes and a table of names with inert constructors. An object of any other name is never imported, called or
built: a `Skipped` takes its place, so that the tensors beside it can be read. Only scalars can be keys of a dict, so no nested
value is ever hashed; an entry with another key is left out.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Protocol, cast

Constructor = Callable[..., object]

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


class Stream(Protocol):
    """What is read of a file, or of one that is mapped into memory."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


class Malformed(ValueError):
    """The bytes are not a pickle as torch writes it."""


class Skipped:
    """Stands for an object that was not built; its state and items are left out too."""

    __slots__ = ("path",)

    def __init__(self, path: str):
        self.path = path


class _Name:
    """A global: REDUCE calls its constructor, if it has one; as a value (a storage type, a dtype) it only has a name."""

    __slots__ = ("make", "path")

    def __init__(self, path: str, make: Constructor | None):
        self.path = path
        self.make = make


def name_of(value: object) -> str | None:
    """The dotted path of a global that appears as a value, else None."""
    return value.path if isinstance(value, _Name) else None


def load(
    stream: Stream,
    names: Mapping[str, Constructor | None],
    persistent: Callable[[object], object] | None = None,
    skipped: set[str] | None = None,
) -> object:
    """Reads one pickle at the current position of the stream, which is then positioned after it.

    Args:
        stream: has read, readline and tell, and returns fewer bytes at the end instead of allocating, as BytesIO does.
        names: dotted path of a global → the inert function that REDUCE calls, or None for a name only.
        persistent: persistent id → value; None where none is allowed.
        skipped: receives the path of every class or function whose object is left out.

    Returns:
        The object: None, numbers, strings, bytes, tuples, lists (also for sets), dicts, results of the constructors, and a
        `Skipped` for every object of a name outside of `names`.

    Raises:
        Malformed: the pickle is damaged; ValueError, IndexError and TypeError of pickletools are also possible.
    """
    return _Machine(names, persistent, set() if skipped is None else skipped).run(stream)


class _Machine:
    def __init__(
        self,
        names: Mapping[str, Constructor | None],
        persistent: Callable[[object], object] | None,
        skipped: set[str],
    ):
        self.names = names
        self.persistent = persistent
        self.skipped = skipped
        self.stack: list[object] = []
        self.memo: dict[object, object] = {}

    def run(self, stream: Stream) -> object:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], stream)):
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

    def top(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed("stack underflow")
        return self.stack[-1]

    def pop(self) -> object:
        value = self.top()
        self.stack.pop()
        return value

    def pop_to_mark(self) -> list[object]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise Malformed("no mark")
        self.stack.pop()
        return items[::-1]

    def pop_many(self, count: int) -> list[object]:
        return [self.pop() for _ in range(count)][::-1]

    def extend(self, items: list[object]) -> None:
        target = self.top()
        if isinstance(target, Skipped):
            return
        if type(target) is not list:
            raise Malformed("items for a value that is not a list")
        target.extend(items)

    def update(self, items: list[object]) -> None:
        target = self.top()
        if isinstance(target, Skipped):
            return
        if type(target) is not dict or len(items) % 2:
            raise Malformed("items for a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, _KEYS):
                target[key] = value

    def find(self, path: str) -> None:
        self.stack.append(_Name(path, self.names.get(path)))

    def skip(self, of: object) -> None:
        """Puts a `Skipped` for an object of this class or function."""
        if not isinstance(of, _Name | Skipped):
            raise Malformed("a call of a value that is not a function")
        self.skipped.add(of.path[:200])
        self.stack.append(Skipped(of.path[:200]))

    def op_mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: object) -> None:
        if not self.stack:
            raise Malformed("stack underflow")
        self.stack.pop()

    def op_pop_mark(self, _: object) -> None:
        self.pop_to_mark()

    def op_dup(self, _: object) -> None:
        self.stack.append(self.top())

    def op_tuple(self, _: object) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_tuple1(self, _: object) -> None:
        self.stack.append(tuple(self.pop_many(1)))

    def op_tuple2(self, _: object) -> None:
        self.stack.append(tuple(self.pop_many(2)))

    def op_tuple3(self, _: object) -> None:
        self.stack.append(tuple(self.pop_many(3)))

    def op_list(self, _: object) -> None:
        self.stack.append(self.pop_to_mark())

    op_frozenset = op_list

    def op_append(self, _: object) -> None:
        self.extend(self.pop_many(1))

    def op_appends(self, _: object) -> None:
        self.extend(self.pop_to_mark())

    op_additems = op_appends

    def op_dict(self, _: object) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.update(items)

    def op_setitem(self, _: object) -> None:
        self.update(self.pop_many(2))

    def op_setitems(self, _: object) -> None:
        self.update(self.pop_to_mark())

    def op_global(self, argument: str) -> None:
        self.find(argument.replace(" ", ".", 1))

    def op_inst(self, argument: str) -> None:
        self.pop_to_mark()
        self.skip(_Name(argument.replace(" ", ".", 1), None))

    def op_obj(self, _: object) -> None:
        items = self.pop_to_mark()
        self.skip(items[0] if items else None)

    def op_newobj(self, _: object) -> None:
        self.skip(self.pop_many(2)[0])

    def op_newobj_ex(self, _: object) -> None:
        self.skip(self.pop_many(3)[0])

    def op_stack_global(self, _: object) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("a global whose name is not a text")
        self.find(f"{module}.{name}")

    def op_reduce(self, _: object) -> None:
        function, arguments = self.pop_many(2)
        if not isinstance(function, _Name) or function.make is None:
            self.skip(function)
        elif not isinstance(arguments, tuple):
            raise Malformed("a call without a tuple of arguments")
        else:
            self.stack.append(function.make(*arguments))

    def op_build(self, _: object) -> None:
        # The state of an OrderedDict (torch's _metadata) or of a tensor subclass: nothing here needs it.
        self.pop()
        self.top()

    def op_binpersid(self, _: object) -> None:
        if self.persistent is None:
            raise Malformed("a storage outside the tensors' pickle")
        self.stack.append(self.persistent(self.pop()))
