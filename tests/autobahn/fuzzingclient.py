"""Runs cases of the Autobahn test suite, in the suite's own venv: `fuzzingclient.py SPEC`.

SPEC is what the suite's `wstest -m fuzzingclient` takes. The first line on standard output has the
ids of the cases, and each case that has ended adds a line: JSON all of them.

The suite is Python 2 code, and is translated while it is imported. Its literals are octets: read as
Latin-1 each octet is one character of a str, and where such a str goes to autobahn it becomes
bytes. What autobahn has received is bytes anyway.
"""

import binascii
import builtins
import functools
import importlib
import json
import re
import sys
import types
from collections.abc import Callable
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any

SUITE = "autobahntestsuite"
TRANSLATION = [
    (r"(?m)^( *)print (.*)$", r"\1print(\2)"),
    (r"([\w.\[\]]+)\.has_key\((.*?)\)", r"\2 in \1"),
    (r"(?m)^from (case\w*|report) import", r"from .\1 import"),
    (r"\(object, Case, \)", "(Case, )"),
    (r"len\(self\.payload\) / ", "len(self.payload) // "),
    (r"binascii\.b2a_hex\(", "hexadecimal("),
    (r"v\.validate\(vss\[:i\]\)", "v.validate(octets(vss[:i]))"),
]
VALUES = ("id", "behavior", "behaviorClose", "result", "resultClose")


class Python2Loader(SourceFileLoader):
    """Imports a module of the suite."""

    def get_code(self, fullname: str) -> types.CodeType:
        text = Path(self.path).read_text(encoding="latin-1")
        for pattern, replacement in TRANSLATION:
            text = re.sub(pattern, replacement, text)
        return compile(text, self.path, "exec", dont_inherit=True)


def suite_finder(path: str) -> FileFinder:
    """What finds modules in the directories of the suite."""
    if SUITE not in Path(path).parts:
        raise ImportError
    return FileFinder(path, (Python2Loader, [".py"]))


def stub(name: str, **content: object) -> None:
    """Let `import name` do without a module that is not needed."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)


def import_fuzzing(suite: Path) -> Any:
    """The suite's module `fuzzing`, without what only its other uses need."""
    vars(builtins).update(xrange=range, unichr=chr, octets=octets, hexadecimal=hexadecimal)
    stub("pkg_resources", resource_filename=lambda _, name: suite / name)
    stub("twisted.internet.ssl", ClientContextFactory=lambda: None)
    stub(SUITE, __path__=[str(suite)], version="")
    names = ("CSS_COMMON", "CSS_DETAIL_REPORT", "CSS_MASTER_REPORT", "JS_MASTER_REPORT")
    stub(f"{SUITE}.case.case9_9_1")  # not in the list of cases
    stub(f"{SUITE}.report", **dict.fromkeys(names, ""))
    sys.path_hooks.insert(0, suite_finder)
    return importlib.import_module(f"{SUITE}.fuzzing")


def octets(value: Any) -> Any:
    """A value with bytes in place of every str in it."""
    if isinstance(value, (list, tuple)):
        return [octets(item) for item in value]
    return value.encode("latin-1") if isinstance(value, str) else value


def hexadecimal(data: Any) -> str:
    """What b2a_hex gave in Python 2."""
    return binascii.b2a_hex(octets(data)).decode()


def taking_octets(method: Callable[..., object]) -> Callable[..., object]:
    """A method of autobahn, to which str means bytes."""

    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> object:
        named = {name: octets(value) for name, value in kwargs.items()}
        if size := named.pop("payload_len", None):  # autobahn divides by /
            payload = named["payload"]
            named["payload"] = (payload * (size // len(payload) + 1))[:size]
        return method(self, *map(octets, args), **named)

    return call


def tell(value: object) -> None:
    """Write a line to whoever started this."""
    print(json.dumps(value), file=sys.__stdout__, flush=True)


def main() -> None:
    """Run the cases one after the other."""
    importlib.import_module("txaio").use_twisted()
    autobahn = importlib.import_module("autobahn.websocket.protocol")
    fuzzing = import_fuzzing(Path(autobahn.__file__ or "").parents[2] / SUITE)
    protocol = autobahn.WebSocketProtocol
    for name in ("sendFrame", "sendMessage", "sendMessageFrameData", "sendCloseFrame"):
        setattr(protocol, name, taking_octets(getattr(protocol, name)))
    fuzzing.Case.compare = lambda _, one, other: octets(one) == octets(other)
    # There is no report to keep a log of the wire for.
    fuzzing.FuzzingProtocol.createWirelog = property(lambda _: False, lambda *_: None)
    fuzzing.asciiLogData = repr
    fuzzing.FuzzingFactory.createReports = lambda _: None
    fuzzing.FuzzingFactory.logCase = lambda _, case: tell([case[name] for name in VALUES])
    sys.stdout = sys.stderr  # of what the suite prints
    factory = fuzzing.FuzzingClientFactory(json.loads(sys.argv[1]))
    tell(factory.specCases)
    fuzzing.reactor.run()


if __name__ == "__main__":
    main()
