"""A connection for the few statements that run for every object that arrives.

SQLAlchemy spends more on running a small statement than SQLite does. Here each statement is compiled once by
SQLAlchemy, for the dialect in use, and then given to the driver as text: the same statements, types and transactions
for half of the CPU. Everything else goes through `node.store.database`.
"""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from sqlalchemy import JSON, Connection, Dialect, Engine
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from node.errors import Transient
from node.store.tables import UtcDateTime
from node.store.tables.columns import EncodedJson

Parameters = dict[str, Any]
_ROWS = 64  # in one INSERT: SQLite before 3.32 takes 999 parameters
_CONFLICT_STATES = ("40001", "40P01")  # PostgreSQL: serialization failure, deadlock


class DatabaseFailed(Transient):
    """The database refused a statement or a commit: nothing of the transaction was kept, as far as is known."""


class Overtaken(DatabaseFailed):
    """Another process wrote the same rows at the same moment and came first: doing it again sees what it wrote."""


class _Prepared:
    """One statement as text, and how its parameters are ordered and converted.

    Lists of parameters are written out for a power of two of values, the last of which stands for those that are not
    given: one text serves many lengths. Rows that are inserted go into one statement where they can.
    """

    def __init__(self, statement: Any, dialect: Dialect, example: Parameters) -> None:
        lists = {name: value for name, value in example.items() if isinstance(value, list)}
        self._lists = {
            name: [f"{name}_{number + 1}" for number in range(_padded(value))] for name, value in lists.items()
        }
        if lists:
            values = {name: value[:1] * len(self._lists[name]) for name, value in lists.items()}
            compiled = statement.params(**values).compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        else:
            compiled = statement.compile(dialect=dialect, column_keys=list(example))
        self._text = str(compiled)
        self._is_positional = bool(compiled.positional)
        self._values = _values_of(self._text) if self._is_positional and compiled.isinsert else None
        names: Sequence[str] = compiled.positiontup or (list(self._spread(example)) if lists else list(compiled.params))
        types = {name: parameter.type.dialect_impl(dialect) for name, parameter in compiled.binds.items()}
        self._columns = [(name, _converter(types[name], dialect) if name in types else None) for name in names]

    def run(self, cursor: DBAPICursor, parameters: Parameters | Sequence[Parameters]) -> None:
        if isinstance(parameters, dict):
            cursor.execute(self._text, self._bind(parameters))
        elif self._values is None:
            cursor.executemany(self._text, [self._bind(one) for one in parameters])
        else:
            for start in range(0, len(parameters), _ROWS):
                rows = parameters[start : start + _ROWS]
                text = self._text + (", " + self._values) * (len(rows) - 1)
                cursor.execute(text, list(chain.from_iterable([self._bind(one) for one in rows])))

    def _bind(self, parameters: Parameters) -> Any:
        if self._lists:
            parameters = self._spread(parameters)
        if self._is_positional:
            return [
                parameters[name] if convert is None else convert(parameters[name]) for name, convert in self._columns
            ]
        return {
            name: parameters[name] if convert is None else convert(parameters[name]) for name, convert in self._columns
        }

    def _spread(self, parameters: Parameters) -> Parameters:
        values = dict(parameters)
        for name, keys in self._lists.items():
            given = parameters[name]
            values.update(zip(keys, given + given[-1:] * (len(keys) - len(given)), strict=True))
        return values


def _padded(values: Sized) -> int:
    """The power of two that a list of these is written out for."""
    return 1 << (len(values) - 1).bit_length()


def _values_of(text: str) -> str | None:
    """The parameters of an INSERT in parentheses, which may be repeated for more rows; None where more follows."""
    _, _, values = text.partition(" VALUES ")
    return values if values.endswith(")") and " ON CONFLICT " not in values and " RETURNING " not in values else None


def _converter(column_type: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    """What makes the driver's value of one of ours."""
    if isinstance(column_type, UtcDateTime):
        return _moment_converter(dialect)
    convert = cast("Callable[[Any], Any] | None", column_type.bind_processor(dialect))
    if convert is None or dialect.name != "sqlite" or not isinstance(column_type, JSON):
        return convert
    return lambda value: value.text if type(value) is EncodedJson else convert(value)


@lru_cache(maxsize=8)
def _moment_converter(dialect: Dialect) -> Callable[[Any], Any] | None:
    """One for all columns: the few moments of a group are converted once."""
    convert = UtcDateTime().dialect_impl(dialect).bind_processor(dialect)
    return lru_cache(maxsize=64)(convert) if convert is not None else None


class _Rows:
    """The rows of a SELECT."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def all(self) -> Sequence[Any]:
        return self._rows


class PreparedConnection:
    """Runs statements on a connection of its own; one thread at a time.

    Parameters
    ----------
    engine : Engine
        Where the connection comes from; it is kept until `close`.
    syncs_commits : bool
        False: a commit is in the database for every process, and on disk only after a sync of the file system, which
        is the caller's (SQLite alone: `synchronous=NORMAL`; checkpoints still sync).
    """

    def __init__(self, engine: Engine, *, syncs_commits: bool = True) -> None:
        self._engine = engine
        self._syncs_commits = syncs_commits
        self._raw: PoolProxiedConnection | None = None
        self._cursor: Any = None
        self._prepared: dict[int, tuple[Any, dict[tuple[int, ...], _Prepared]]] = {}  # which keeps statements alive
        self.dialect = engine.dialect

    @contextmanager
    def write_transaction(self) -> Iterator[Connection]:
        """As `database.write_transaction`; what it yields knows `execute` with parameters, and `dialect`.

        Raises `DatabaseFailed` for whatever the driver or the pool raises, `Overtaken` among it.
        """
        try:
            raw = self._connection()
        except SQLAlchemyError as error:
            raise DatabaseFailed(type(error).__name__) from None
        try:
            if self.dialect.name == "sqlite":
                self._cursor.execute("BEGIN IMMEDIATE")
            yield cast(Connection, self)
            raw.commit()
        except BaseException as error:
            with suppress(Exception):
                raw.rollback()
            self.close()  # whatever is wrong with it, the next transaction gets another
            if isinstance(error, self.dialect.loaded_dbapi.Error):
                raise self._failure(error) from None
            raise

    def execute(self, statement: Any, parameters: Parameters | Sequence[Parameters]) -> _Rows:
        """Run one statement; the rows of a SELECT come as tuples, unconverted."""
        cursor = self._cursor
        self._prepare(statement, parameters).run(cursor, parameters)
        return _Rows(cursor.fetchall() if cursor.description else [])

    def close(self) -> None:
        """Give the connection back."""
        if self._raw is not None:
            with suppress(Exception):
                self._raw.invalidate()
            self._raw = self._cursor = None

    def _failure(self, error: Exception) -> DatabaseFailed:
        is_conflict = isinstance(error, self.dialect.loaded_dbapi.IntegrityError)
        is_conflict = is_conflict or getattr(error, "sqlstate", None) in _CONFLICT_STATES
        return (Overtaken if is_conflict else DatabaseFailed)(type(error).__name__)

    def _connection(self) -> PoolProxiedConnection:
        if self._raw is None:
            self._raw = self._engine.raw_connection()
            self._cursor = self._raw.cursor()
            if not self._syncs_commits:
                self._cursor.execute("PRAGMA synchronous = NORMAL")
        return self._raw

    def _prepare(self, statement: Any, parameters: Parameters | Sequence[Parameters]) -> _Prepared:
        """The statement for parameters like these; a statement is always given parameters of the same names."""
        example = parameters if isinstance(parameters, dict) else parameters[0]
        _, variants = self._prepared.setdefault(id(statement), (statement, {}))
        key = tuple([_padded(value) for value in example.values() if type(value) is list])
        found = variants.get(key)
        if found is None:
            found = variants[key] = _Prepared(statement, self.dialect, example)
        return found
