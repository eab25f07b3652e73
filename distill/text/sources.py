"""Readers: a lab's own text and chats, one document at a time, from wherever they lie.

A source is `pydoc`, `prompts`, a .txt or .md file, rows (.jsonl, .jsonl.gz, .parquet, a directory
that `datasets` saved), or a directory of such files. A row is a text under "text"; a chat under
"messages", or under "conversations" as ShareGPT writes it; or a "prompt" and its "response". It may
carry an "id", and a "tag" that says which teacher teaches it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.files import read_text
from distill.resources import shipped

Message = dict[str, Any]
Row = dict[str, Any]

# The prompts that ship: their name among sources and as what a teacher answers, and their file.
SEEDS = "prompts"
SEEDS_FILE = "seeds/prompts.jsonl"

_PROSE = (".txt", ".md")
_ROWS = (".jsonl", ".jsonl.gz", ".parquet")
_COLUMNS = ("id", "tag", "text", "messages", "conversations", "prompt", "response", "tools")
_BATCH = 1024  # rows of a Parquet file in memory at once
_SHAREGPT = {"human": "user", "gpt": "assistant"}
_WANTED = (
    "needs an object with a text under 'text', a chat under 'messages', or a text under each of "
    "'prompt' and 'response'"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text or chat, and where it came from.

    Attributes:
        id: its source's name, a slash, and its own name; the split keeps documents of one id on
            one side.
        text: of a chat, what its messages say, a blank line between.
        tag: which teacher teaches it: the row's own, else the name of its source.
        messages: of a chat, as chat templates take them; empty for a text.
        tools: the functions a chat's assistant was offered, as JSON schemas.
    """

    id: str
    text: str
    tag: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Row, ...] = ()


def load(sources: Sequence[str]) -> list[Document]:
    """Return the documents of all sources, in order.

    Raises:
        InputError: a file is missing, empty, not UTF-8, or has a malformed row, which is named.
    """
    return [document for source in sources for document in read(source)]


def read(source: str) -> Iterator[Document]:
    """Yield the documents of one source, of which only one is held at a time.

    Raises:
        InputError: as `load`.
    """
    match source:
        case "pydoc":
            yield from _pydoc_topics()
        case _ if source == SEEDS:
            yield from _seed_prompts()
        case _:
            yield from _path(Path(source))


def _pydoc_topics() -> Iterator[Document]:
    """Yield the help topics of the running Python (PSF licence)."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(id=f"pydoc/{name}", text=topics[name], tag="pydoc")


def _seed_prompts() -> Iterator[Document]:
    for _, row in rows(shipped(SEEDS_FILE), ("id", "prompt")):
        yield Document(id=f"{SEEDS}/{row['id']}", text=row["prompt"], tag=SEEDS)


def is_seed(document: Document) -> bool:
    """Tell whether a document is a shipped prompt."""
    return document.id.startswith(f"{SEEDS}/")


def _path(path: Path) -> Iterator[Document]:
    name = path.resolve().name
    tag = name.split(".")[0]
    if path.is_dir() and not _is_saved(path):
        for file in _files(path):
            yield from _file(file, f"{name}/{file.relative_to(path).as_posix()}", tag)
    elif path.suffix in _PROSE:
        yield from _file(path, f"files/{name}", tag)
    else:
        yield from _file(path, name, tag)


def _files(path: Path) -> list[Path]:
    """Return the files below a directory that can be read, by name; hidden ones are passed over."""
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.name.endswith((*_PROSE, *_ROWS))
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise InputError(
            f"{path} holds no {', '.join((*_PROSE, *_ROWS))} file; name a directory that does."
        )
    return found


def _file(path: Path, name: str, tag: str) -> Iterator[Document]:
    """Yield the documents of one file, or saved directory, whose ids begin with `name`."""
    if path.suffix in _PROSE:
        yield Document(id=name, text=read_text(path), tag=tag)
        return
    for number, (where, row) in enumerate(rows(path, _COLUMNS), 1):
        yield _document(row, where, f"{name}/{row.get('id', number)}", tag)


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yield where each row of a file or a saved `datasets` directory stands, and the row.

    Args:
        path: .jsonl, .jsonl.gz or .parquet, or the directory.
        columns: the only ones kept; nulls are left out too.

    Raises:
        InputError: there is no such file, or nothing in it, or a row that is none.
    """
    empty = True
    for where, row in _raw_rows(path, columns):
        empty = False
        if not isinstance(row, dict):
            raise InputError(f"{where}: needs a JSON object, not {type(row).__name__}.")
        yield where, {name: row[name] for name in columns if row.get(name) is not None}
    if empty:
        raise InputError(f"{path} is empty; put something in it or name another file.")


def _raw_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_lines(path)
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    if _is_saved(path):
        return _saved(path, columns)
    raise InputError(
        f"text source {str(path)!r} is unknown; use pydoc, prompts, a .txt, .md, .jsonl, "
        ".jsonl.gz or .parquet file, or a directory of such files."
    )


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Lines of bytes: JSON allows U+2028 and its like inside a text, where they end no line.
    with _opened(path):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}, line {number}", _json(line, f"{path}, line {number}")


def _json(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start} of the line).") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error.msg}).") from error


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Turn what opening and reading may raise into a sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the name.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a directory; name a file.") from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} cannot be read: {reason}.") from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path}: {_missing('pyarrow')}") from error
    with _opened(path):
        try:
            with parquet.ParquetFile(path) as file:
                known = _known(path, file.schema_arrow.names, columns)
                number = 0
                for batch in file.iter_batches(batch_size=_BATCH, columns=known):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}, row {number}", row
        except ArrowException as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}.") from error


def _is_saved(path: Path) -> bool:
    """Tell whether `datasets` saved one set, or several splits, in this directory."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Any]]:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise InputError(f"{path}: {_missing('datasets')}") from error
    try:
        found = load_from_disk(str(path))
    except Exception as error:  # datasets raises whatever its readers raise
        raise InputError(f"{path} cannot be read as a saved set: {error}.") from error
    if not isinstance(found, Dataset):
        raise InputError(
            f"{path} holds several splits ({', '.join(found)}); name one, as {path / min(found)}."
        )
    kept = found.select_columns(_known(path, found.column_names, columns))
    for number, row in enumerate(kept, 1):
        yield f"{path}, row {number}", row


def _known(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    known = [name for name in names if name in columns]
    if not known:
        raise InputError(
            f"{path} has the columns {', '.join(names)}; rename what should be read to one of "
            f"{', '.join(columns)}."
        )
    return known


def _missing(package: str) -> str:
    return f"reading it needs {package}; run: pip install 'spiritsafe[distill]'."


def _document(row: Row, where: str, name: str, tag: str) -> Document:
    for key, kinds in (("id", (str, int)), ("tag", (str,))):
        if key in row and (isinstance(row[key], bool) or not isinstance(row[key], kinds)):
            raise InputError(f"{where}: {key!r} must be a text, not {row[key]!r}.")
    messages = _messages(row, where)
    tools = row.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"{where}: 'tools' must be a list of JSON schemas.")
    said = "\n\n".join(message["content"] for message in messages if "content" in message)
    document = Document(
        id=name,
        text=said if messages else row["text"],
        tag=row.get("tag", tag),
        messages=tuple(messages),
        tools=tuple(tools),
    )
    require_unicode([document.id, document.text, document.tag, messages, tools], where)
    return document


def _messages(row: Row, where: str) -> list[Message]:
    """Return a row's messages; none of a text."""
    if isinstance(row.get("text"), str):
        return []
    if "messages" in row:
        return chat(row["messages"], where, answered=True)
    if "conversations" in row:
        return chat(_from_sharegpt(row["conversations"], where), where, answered=True)
    prompt, response = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise InputError(f"{where}: {_WANTED}.")
    pair = (("user", prompt), ("assistant", response))
    return [{"role": role, "content": said} for role, said in pair]


def _from_sharegpt(turns: Any, where: str) -> Any:
    """Return ShareGPT's turns, {"from", "value"}, as messages; messages pass through."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns  # `chat` refuses it
    if all("role" in turn for turn in turns):
        return turns
    if not all(isinstance(turn.get("from"), str) for turn in turns):
        raise InputError(f"{where}: every turn of 'conversations' needs 'from' and 'value'.")
    return [
        {"role": _SHAREGPT.get(turn["from"], turn["from"]), "content": turn.get("value")}
        for turn in turns
    ]


def chat(messages: Any, where: str, *, answered: bool) -> list[Message]:
    """Return the messages of a chat, nulls left out.

    Args:
        messages: a list of objects with a role, and a content or calls of tools.
        where: named in the error.
        answered: whether the assistant must have said something.

    Raises:
        InputError: they are not that.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: a chat must be a list of messages.")
    found = []
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"{where}: message {place} needs an object with a 'role'.")
        given = {key: value for key, value in message.items() if value is not None}
        content = given.get("content", "" if given.get("tool_calls") else None)
        if not isinstance(content, str):
            raise InputError(f"{where}: message {place} needs a text under 'content'.")
        found.append(given)
    if answered and not any(message["role"] == "assistant" for message in found):
        raise InputError(f"{where}: no message is the assistant's, so there is nothing to learn.")
    return found


def require_unicode(parts: list[Any], where: str) -> None:
    """Refuse texts that JSON can spell and no encoding can carry; no digest is of them.

    Raises:
        InputError: half of a surrogate pair stands in `parts`, which JSON could hold.
    """
    try:
        json.dumps(parts, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds half of a surrogate pair; repair it.") from error
