"""Text encodings that show control characters, so that no file name or label can command the terminal it appears on.

``utf-8-visible`` is UTF-8 in which control characters (C0, DEL, C1) other than newline, tab and the carriage return of
progress bars appear as ``\\x1b``; so is ``NAME-visible`` of any other encoding. Escape sequences could otherwise
rewrite lines of a log, or do more in some terminals.
"""

from __future__ import annotations

import codecs
import io
import re
import sys

__all__ = ["VISIBLE_UTF8", "print_any_name", "visible_line"]

VISIBLE_UTF8 = "utf-8-visible"
_SUFFIX = "-visible"
_BREAKS = {ord(sign): repr(sign)[1:-1] for sign in "\t\n\r\u2028\u2029"}
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def print_any_name() -> None:
    """Let this process print and log any file name: control characters and bytes that are no text are shown escaped.

    Otherwise Python would end the command, or lose the line of the log, at a name that is not valid UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            visible = stream.encoding if stream.encoding.endswith(_SUFFIX) else stream.encoding + _SUFFIX
            stream.reconfigure(encoding=visible, errors="backslashreplace")


def visible_line(text: str) -> str:
    """A name on one line: newlines and tabs are shown escaped, too, so that no name can forge a line of a log."""
    return _shown(text).translate(_BREAKS)


def _shown(text: str) -> str:
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _find(name: str) -> codecs.CodecInfo | None:
    name = name.replace("_", "-")
    if not name.endswith(_SUFFIX):
        return None
    inner = codecs.lookup(name.removesuffix(_SUFFIX))

    class Encoder(codecs.IncrementalEncoder):
        def encode(self, input: str, final: bool = False) -> bytes:
            return inner.encode(_shown(input), self.errors)[0]

    def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
        return inner.encode(_shown(text), errors)[0], len(text)

    return codecs.CodecInfo(encode, inner.decode, inner.streamreader, None, Encoder, inner.incrementaldecoder, name)


codecs.register(_find)
