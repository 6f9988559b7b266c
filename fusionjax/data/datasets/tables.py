"""Tables as people have them, CSV or Parquet: the columns that a reader knows, as text, with the position of every row."""

import ast
import codecs
import contextlib
import csv
import dataclasses
import decimal
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from fusionjax import files
from fusionjax.errors import UserError

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
_DELIMITERS = ",;\t|"
_MAX_BYTES = 2**36
_MAX_CELL = 2**24
"""Characters; a quote that is not closed takes the rest of a file into one cell."""
_LARGEST = 2.0**53  # above it, a float column may hold rounded integers


@dataclasses.dataclass(frozen=True)
class Table:
    """The known columns of a table.

    Attributes:
        rows: N positions for messages, "line 3" or "row 2".
        columns: name → N values as text; a missing value is "".
        present: the names of all columns, as the file spells them.
    """

    rows: list[str]
    columns: dict[str, list[str]]
    present: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Known:
    """The columns that a reader knows.

    Attributes:
        names: their names, in lower case.
        lists: those whose cells may hold several values, separated by "|", or as a list (in CSV a JSON list).
        prose: those with any text, in which brackets are text.
    """

    names: Collection[str]
    lists: Collection[str] = ()
    prose: Collection[str] = ()


def read(path: Path, known: Known) -> Table:
    """Reads .csv and .tsv (comma, semicolon, tab or | between the fields) and .parquet.

    CSV is UTF-8, with or without byte order mark, or UTF-16 with one, as spreadsheets write "Unicode text".

    Column names are compared without case and surrounding spaces; columns that are not known are left out.

    Args:
        path: the file.
        known: the columns to read.

    Raises:
        UserError: another suffix, a damaged file, a column that is there twice, a row with too few or too many fields, a cell
            that holds something other than text or a number.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"config.data.root={str(path)!r}: a manifest ends in {', '.join(SUFFIXES)}")
    try:
        files.check_readable(path, _MAX_BYTES)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from None
    return _csv(path, known) if suffix in (".csv", ".tsv") else _parquet(path, known)


def _csv(path: Path, known: Known) -> Table:
    try:
        with open(path, "rb") as raw:
            wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with open(path, newline="", encoding="utf-16" if wide else "utf-8-sig") as file, _long_cells():
            return _records(path, file, known)
    except UnicodeError as e:
        where = f"byte {e.start} is not" if isinstance(e, UnicodeDecodeError) else "it is not"
        raise UserError(
            f"{path} cannot be read as CSV: {where} {'UTF-16' if wide else 'UTF-8'}; save it as UTF-8"
        ) from None
    except (OSError, csv.Error) as e:
        raise UserError(f"{path} cannot be read as CSV: {e}") from None


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(path: Path, file: io.TextIOBase, known: Known) -> Table:
    delimiter = _delimiter(file, known)
    file.seek(0)
    reader = csv.reader(file, strict=True, delimiter=delimiter)
    header = _first(reader)
    place = _places(path, header, known)
    rows: list[str] = []
    columns: dict[str, list[str]] = {name: [] for name in place}
    for record in _each(path, reader):
        if not any(field.strip() for field in record):  # also ",,", which spreadsheets leave below a table
            continue
        where = f"{path} line {reader.line_num}"
        if len(record) != len(header):
            raise UserError(f"{where}: {len(record)} fields, the header has {len(header)}")
        rows.append(f"line {reader.line_num}")
        for name, i in place.items():
            columns[name].append(_csv_cell(record[i].strip(), name, where, known))
    return Table(rows, columns, tuple(header))


def _each(path: Path, reader: Any) -> Iterator[list[str]]:
    """The records of a reader; an error names the line where its record begins."""
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            raise UserError(
                f"{path} line {begin}: the row that begins there cannot be read ({e}); is a quote not closed?"
            ) from None
        yield record


def _delimiter(file: io.TextIOBase, known: Known) -> str:
    """The delimiter that gives the header most known columns, and of several the one that gives most columns."""
    best, most = ",", (0, 1)
    for delimiter in _DELIMITERS:
        file.seek(0)
        try:
            header = _first(csv.reader(file, strict=True, delimiter=delimiter))
        except csv.Error:  # quotes that end in the middle of a field
            continue
        found = sum(_folded(name) in known.names for name in header), len(header)
        if found > most:
            best, most = delimiter, found
    return best


def _first(reader: Iterable[list[str]]) -> list[str]:
    """The first record that is not an empty line, without spaces around the names."""
    return next(([name.strip() for name in record] for record in reader if record), [])


def _csv_cell(text: str, name: str, where: str, known: Known) -> str:
    """A field. A JSON list is read where the column may hold one; other printed lists and dictionaries are refused.

    A table of lists that is saved as CSV holds their printed form, which would become a class or a file name.
    """
    if name in known.prose or not (text[:1] in ("[", "{") and text[-1:] in ("]", "}")):
        return text
    if name in known.lists:
        try:
            return _cell(json.loads(text), name, where, known)
        except ValueError:  # e.g. with single quotes, where Python would join 'a' 'b' to one text
            pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
    if isinstance(value, list | dict | set):
        several = "; separate several values by |, or write a JSON list" if name in known.lists else ""
        raise UserError(f"{where}: {name!r} holds {_shown(text)}, not one value{several}")
    return text


def _parquet(path: Path, known: Known) -> Table:
    try:
        # Not `read_table`: it would add columns for folders named like split=train.
        with pyarrow.parquet.ParquetFile(path) as file:
            present = tuple(file.schema_arrow.names)
            place = _places(path, present, known)
            content = file.read(columns=[present[i] for i in place.values()])
            cells = {name: content.column(present[i]).to_pylist() for name, i in place.items()}
            count = file.metadata.num_rows
    except UnicodeDecodeError:
        raise UserError(f"{path} cannot be read as Parquet: a text in it is not UTF-8") from None
    except (pyarrow.ArrowException, OSError) as e:
        reason = str(e).splitlines() or [type(e).__name__]
        raise UserError(f"{path} cannot be read as Parquet: {reason[0]}") from None
    columns = {
        name: [_cell(value, name, f"{path} row {i}", known) for i, value in enumerate(values, 1)]
        for name, values in cells.items()
    }
    return Table([f"row {i}" for i in range(1, count + 1)], columns, present)


def _cell(value: object, name: str, where: str, known: Known) -> str:
    """A value as text; a list of values is joined by "|" where the column may hold one."""
    if isinstance(value, list) and name in known.lists:
        parts = [_plain(v, name, where) for v in value if v is not None]
        if any("|" in part for part in parts):
            raise UserError(f"{where}: {name!r} contains |, which separates the values")
        return "|".join(parts)
    return _plain(value, name, where)


def _plain(value: object, name: str, where: str) -> str:
    """A value as the text that a CSV file would hold: 3.0 in a float column is "3", a missing value "" (also NaN)."""
    convert: dict[type, Callable[..., str]] = {
        str: str.strip,
        bool: str,
        int: str,
        float: _number,
        decimal.Decimal: _number,
    }
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise UserError(f"{where}: {name!r} holds bytes that are not text") from None
    if type(value) not in convert:
        raise UserError(
            f"{where}: {name!r} holds {_shown(repr(value))}, a {type(value).__name__}, where text or a number is expected"
        )
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= _LARGEST:
        raise UserError(
            f"{where}: {name!r} holds {value!r}, a float that may have been rounded: store the column as integers or text"
        )
    return convert[type(value)](value)


def _number(value: float | decimal.Decimal) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def _places(path: Path, header: Sequence[str], known: Known) -> dict[str, int]:
    """Known column → its position; raises UserError where a column is there twice."""
    place: dict[str, int] = {}
    for i, name in enumerate(map(_folded, header)):
        if name not in known.names:
            continue
        if name in place:
            raise UserError(
                f"{path} has the column {name!r} twice, as columns {place[name] + 1} and {i + 1}: remove or rename one"
            )
        place[name] = i
    return place


def _folded(name: str) -> str:
    return name.strip().casefold()


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + " …"
