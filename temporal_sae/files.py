"""Files that are complete or do not exist, and reading of those that anybody may have written."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from temporal_sae.errors import RunError

TEMPORARY = ".unfinished-"
# What file systems say of a detail that they do not offer: flushing a folder, changing a mode.
NOT_OFFERED = {EACCES, EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM}
LONGEST_JSON = 256 * 2**20  # bytes; far above what a run writes, far below what a machine has
DEEPEST_JSON = 64  # levels; whoever walks through them does so by recursion
DAMAGED = ".damaged"
_ONE_AT_A_TIME = Lock()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Opening a FIFO waits for a writer, and a device may never end: neither is opened.

    Raises:
        OSError: there is no such file, it may not be read, or it is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    # Without waiting, should a FIFO have taken its place since.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def read_end(path: Path, n_bytes: int) -> bytes:
    """Return at most the last bytes of a regular file; none of one that cannot be read."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - n_bytes))
            return file.read()
    except OSError:
        return b""


def open_to_append(path: Path) -> int:
    """Open a regular file, made if there is none, for writing at its end; returns a descriptor.

    Neither a link is followed, which may lead to anybody's file, nor a FIFO waited for.

    Raises:
        OSError: something else stands there, or it may not be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(EINVAL, "is not a regular file", str(path))
    return descriptor


def read_json(path: Path, longest: int = LONGEST_JSON) -> Any:
    """Return the content of a JSON file that need not be one of ours.

    Args:
        path: of the file.
        longest: the most bytes it may have.

    Raises:
        FileNotFoundError: there is none.
        RunError: it cannot be read, is too long, or holds no JSON; in one line with its path.
    """
    try:
        with open_regular(path) as file:
            data = file.read(longest + 1)
        if len(data) > longest:
            raise ValueError(f"longer than {longest} bytes")
        return parse_json(data)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RunError(f"{path}: cannot be read ({reason})") from error


def parse_json(data: bytes) -> Any:
    """Return the content of JSON text: not too deep, no key twice, integers of at most 64 bits.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(data.decode(), parse_int=_whole_number, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from error
    if _is_deeper(content, DEEPEST_JSON):
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, in which a key that is given twice would mean either of two things."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} is given twice")
    return content


def _whole_number(digits: str) -> int:
    value = int(digits) if len(digits) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise ValueError("a whole number of more than 64 bits")
    return value


def _is_deeper(content: Any, levels: int) -> bool:
    if not isinstance(content, (dict, list)):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def set_aside(path: Path, ending: str = DAMAGED) -> Path:
    """Rename what no longer fits and can be made again; returns its new name, `NAME.damaged`."""
    aside = path.with_name(path.name + ending)
    n = 1
    while os.path.lexists(aside):
        n += 1
        aside = path.with_name(f"{path.name}{ending}-{n}")
    os.rename(path, aside)
    return aside


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary file beside `path`, flush it to the disk, and rename it into place.

    The folder must exist: whoever removes that of a run while it goes on wants no part of it back.
    """
    data = content.encode() if isinstance(content, str) else content

    def write(file: BinaryIO) -> str:
        file.write(data)
        return path.name

    write_and_name(path.parent, write)


def write_and_name(folder: Path, write: Callable[[BinaryIO], str]) -> Path:
    """Let `write` fill a temporary file in `folder`; it is then renamed to what that returns."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            path = folder / write(file)
            file.flush()
            sync(file.fileno())
        with suppressed(NOT_OFFERED):
            os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return path


def make_folder_atomically(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder beside `path`, and rename it into place."""
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY))
    try:
        fill(temporary)
        with suppressed(NOT_OFFERED):
            os.chmod(temporary, 0o777 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def replace_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder that takes the place of `path`, which goes once that is whole."""
    if not os.path.lexists(path):
        make_folder_atomically(path, fill)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY))
    old = aside / path.name

    def fill_and_make_way(temporary: Path) -> None:
        fill(temporary)
        os.rename(path, old)

    try:
        make_folder_atomically(path, fill_and_make_way)
    finally:
        if os.path.lexists(old) and not os.path.lexists(path):
            os.rename(old, path)
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written atomically; a number that is not finite becomes null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    write_atomically(path, text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def remove_temporaries(folder: Path, *, below: bool = True) -> None:
    """Delete what writers that were killed have left in `folder`, and in all folders below."""
    found = folder.rglob(f"{TEMPORARY}*") if below else folder.glob(f"{TEMPORARY}*")
    for path in list(found):
        remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link but not what it leads to, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_all(folder: Path, names: Sequence[str]) -> None:
    """Delete some of what `folder` holds: all of it, or nothing where one of them has to stay.

    The last of `names` is taken away last.

    Raises:
        OSError: one of them cannot be moved.
    """
    found = [folder / name for name in names if os.path.lexists(folder / name)]
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=TEMPORARY))
    moved: list[Path] = []
    try:
        for path in found:
            os.rename(path, aside / path.name)
            moved.append(path)
    except OSError:
        for path in moved:
            os.rename(aside / path.name, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def sync_folder(folder: Path) -> None:
    """Flush a rename inside `folder` to the disk, where the folder can be read."""
    with suppressed(NOT_OFFERED):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


def reserve(descriptor: int, n_bytes: int) -> None:
    """Give a file so many bytes of the disk, at least one.

    What is written through a mapping later on finds a place; a full disk would end the process.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)


def sync(descriptor: int) -> None:
    """Flush a file or a folder to the disk, if its file system can."""
    with suppressed(NOT_OFFERED):
        os.fsync(descriptor)


@contextmanager
def suppressed(numbers: Collection[int]) -> Iterator[None]:
    """Pass over errors of the operating system with these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def current_umask() -> int:
    """Return the process's umask."""
    with suppress(OSError):
        if told := re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.M):
            return int(told[1], 8)
    # Elsewhere it can only be read by setting it, which another thread must not do in between.
    with _ONE_AT_A_TIME:
        umask = os.umask(0)
        os.umask(umask)
    return umask


def remove_if_empty(path: Path) -> None:
    """Remove a folder that holds nothing, and its parents below the working directory likewise.

    Other processes of a run may be at the same.
    """
    stop, path = Path.cwd(), path.resolve()
    while path != stop and path.is_dir():
        try:
            path.rmdir()
        except FileNotFoundError:
            pass  # one of them was faster; the parents are still to be looked at
        except OSError:  # something is in it
            return
        path = path.parent
        if not path.is_relative_to(stop):
            return
