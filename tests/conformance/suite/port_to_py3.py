"""
port_to_py3.py SUITE_DIR AUTOBAHN_DIR

Converts, in place, an unpacked `autobahntestsuite` package (25.10.1) and the
`autobahn` 0.10.9 package it is pinned to, from Python 2 to Python 3.
Run by install.sh; needs `fissix`, which is the 2to3 tool kept alive for the
Python releases that no longer carry it.

The one idea behind the port
----------------------------
In Python 2 a plain '...' literal is a byte string, and the suite builds every
payload from such literals.  Instead of rewriting ~240 files to b'...' (and
changing what s[12], iteration, ''.join or "%d" % i mean on them) the port keeps
those literals as `str`, reads the sources as latin-1 - so character N of a
literal IS byte N of the Python 2 string - and turns str into bytes, with
.encode('latin-1'), in exactly the places where a payload leaves the case code:

  * when it is handed to the protocol (sendFrame, sendMessage, ...),
  * when Case.compare() sets what was expected beside what was received,
  * when it is hex-dumped or written to a report.

latin-1 is a bijection between U+0000..U+00FF and bytes, so nothing can be
altered silently: anything else raises UnicodeEncodeError.

Every edit below states how often it must match; a mismatch aborts the port.
"""
import os
import re
import sys

from fissix.refactor import RefactoringTool

# Purely syntactic fixers only.
FIXERS = ["fissix.fixes.fix_" + f for f in (
    "print",      # print x           -> print(x)
    "except",     # except E, e       -> except E as e
    "raise",      # raise E, "x"      -> raise E("x")
    "has_key",    # d.has_key(k)      -> k in d
    "import",     # import case       -> from . import case   (implicit relative imports)
    "xrange",     # xrange            -> range
    "unicode",    # u"x" -> "x", unichr -> chr
    "dict",       # list(d.keys()) where a list is needed
    "map", "filter",
    "ne", "numliterals", "tuple_params",
)]

# The helper module the edits below refer to; written to SUITE_DIR/_py3.py.
HELPER = '''\
"""Written by port_to_py3.py: the str/bytes border of the Python 3 port."""
import binascii


def b(x):
   """Python 2 byte string (held as latin-1 str) -> bytes; bytes stay as they are."""
   return x.encode("latin-1") if isinstance(x, str) else x


def t(x):
   """bytes -> text for the reports, which are UTF-8/JSON; anything else as is.
   surrogatepass: Python 2's UTF-8 codec let lone surrogates through."""
   if isinstance(x, bytes):
      try:
         return x.decode("utf-8", "surrogatepass")
      except UnicodeDecodeError:
         return x.decode("latin-1")
   return x


def hexlify(x):
   return binascii.b2a_hex(b(x)).decode("ascii")


def wire(events):
   """A list of (kind, payload, ...) events with every payload as bytes."""
   return [(e[0], b(e[1])) + tuple(e[2:]) if e[0] in ("message", "ping", "pong") else e
           for e in events]


def report_open(path):
   return open(path, "w", encoding="utf-8", errors="surrogatepass", newline="\\n")


class BytesAtTheWire(object):
   """Mixed in ahead of autobahn's protocol class: payloads go out as bytes."""

   def sendFrame(self, opcode, payload = b"", *args, **kwargs):
      return super().sendFrame(opcode, b(payload), *args, **kwargs)

   def sendMessage(self, payload, *args, **kwargs):
      return super().sendMessage(b(payload), *args, **kwargs)

   def sendMessageFrameData(self, payload, *args, **kwargs):
      return super().sendMessageFrameData(b(payload), *args, **kwargs)

   def sendCloseFrame(self, code = None, reasonUtf8 = None, isReply = False):
      return super().sendCloseFrame(code, b(reasonUtf8), isReply)
'''

CASES = r"case/case[0-9].*\.py"

# (file name regex, old text, new text, number of occurrences over all files, why)
SUITE_EDITS = [
    # --- payloads leave the case code ------------------------------------------------
    (r"fuzzing\.py", "class FuzzingProtocol:", "class FuzzingProtocol(_py3.BytesAtTheWire):", 1,
     "str payloads become bytes where they are handed to the protocol"),
    (r"fuzzing\.py", "from caseset import CaseSet", "from caseset import CaseSet\nfrom . import _py3", 1,
     "import the helper"),
    (r"case/case\.py", "return pickle.dumps(obj1) == pickle.dumps(obj2)",
     "return pickle.dumps(_py3.wire(obj1)) == pickle.dumps(_py3.wire(obj2))", 1,
     "compare expected (str) with received (bytes) as bytes; the check itself is unchanged"),
    (r"case/case\.py", "import pickle", "import pickle\nfrom .. import _py3", 1, "import the helper"),
    (r"case/case6_x_x\.py", "res = v.validate(vss[:i])", "res = v.validate(_py3.b(vss[:i]))", 1,
     "the validator (which decides isValid for 6.6.*) takes bytes"),

    # --- classes ---------------------------------------------------------------------
    (CASES, "(object, Case, )", "(Case, )", 6,
     "Case was an old-style class; (object, Case) has no consistent MRO now"),
    (r"case/case9_9_1\.py", "from zope.interface import implements", "from zope.interface import implementer", 1,
     "class advice is gone in Python 3 (this case is not in the suite's list, but is imported)"),
    (r"case/case9_9_1\.py", "class FrameProducer:",
     "@implementer(interfaces.IPushProducer)\nclass FrameProducer:", 1, "ditto"),
    (r"case/case9_9_1\.py", "   implements(interfaces.IPushProducer)\n", "", 1, "ditto"),

    # --- arithmetic ------------------------------------------------------------------
    (r"case/case10_1_1\.py", "len(self.payload) / self.p.autoFragmentSize",
     "len(self.payload) // self.p.autoFragmentSize", 1,
     "integer division: 10.1.1 compares this with a frame count"),

    # --- hex dumps in descriptions and reports ---------------------------------------
    (CASES, "binascii.b2a_hex(", "_py3.hexlify(", 23, "takes bytes and returns bytes now"),
    (CASES, "binascii.hexlify(", "_py3.hexlify(", 2, "ditto"),
    (CASES, "import binascii\n", "import binascii\nfrom .. import _py3\n", 14, "import the helper"),
    (r"case/case12_x_x\.py", "import copy, os, pkg_resources, hashlib, binascii",
     "import copy, os, pkg_resources, hashlib, binascii\nfrom .. import _py3", 1, "import the helper"),
    (r"case/__init__\.py", "CaseSubCategories.update(Case13_X_X_CaseSubCategories)",
     "CaseSubCategories.update(Case13_X_X_CaseSubCategories)\n\n"
     "from .. import _py3\n"
     "for _c in Cases:\n"
     "   _c.DESCRIPTION = _py3.t(_py3.b(_c.DESCRIPTION))\n", 1,
     "some descriptions quote a payload: latin-1 str -> bytes -> UTF-8 text, as in the Python 2 reports"),
    (r"fuzzing\.py", "dd = binascii.b2a_hex(data[:maxlen]) + ellipses",
     "dd = _py3.hexlify(data[:maxlen]) + ellipses", 1, "hex as text"),
    (r"fuzzing\.py", "dd = binascii.b2a_hex(data)", "dd = _py3.hexlify(data)", 1, "hex as text"),
    (r"fuzzing\.py", "binascii.b2a_hex(frameHeader.mask)", "_py3.hexlify(frameHeader.mask)", 2, "hex as text"),
    (r"fuzzing\.py", "mmask = binascii.b2a_hex(t[6])", "mmask = _py3.hexlify(t[6])", 1, "hex as text"),
    (r"fuzzing\.py", '   ellipses = " ..."\n   try:\n', '   ellipses = b" ..."\n   data = _py3.b(data)\n   try:\n', 1,
     "asciiLogData works on bytes"),
    (r"fuzzing\.py", "return dd.decode('utf8', errors = 'replace' if replace else 'strict')",
     "return dd.decode('utf8', errors = 'replace' if replace else 'surrogatepass')", 1,
     "Python 2's UTF-8 codec accepted surrogates; log only, no verdict depends on it"),
    (r"fuzzing\.py", "p = ''.join(payload)", "p = b''.join(payload)", 1, "received frame data is bytes"),

    # --- reports ---------------------------------------------------------------------
    (r"fuzzing\.py", "self.http_request_data if hasattr(self, 'http_request_data') else '?'",
     "_py3.t(self.http_request_data) if hasattr(self, 'http_request_data') else '?'", 1, "JSON takes text"),
    (r"fuzzing\.py", "self.http_response_data if hasattr(self, 'http_response_data') else '?'",
     "_py3.t(self.http_response_data) if hasattr(self, 'http_response_data') else '?'", 1, "JSON takes text"),
    (r"fuzzing\.py", '"localCloseReason": self.localCloseReason,',
     '"localCloseReason": _py3.t(self.localCloseReason),', 1, "JSON takes text"),
    (r"fuzzing\.py", "f = open(os.path.join(outdir, report_filename), 'w')",
     "f = _py3.report_open(os.path.join(outdir, report_filename))", 4, "reports are UTF-8 whatever the locale"),
    (r"fuzzing\.py", "case[c[0]], c[1])).encode(\"utf-8\"))", "case[c[0]], c[1])))", 1, "text file"),
    (r"fuzzing\.py", "ll.encode('utf8')", "ll", 1, "text file"),
    (r"fuzzing\.py", 'log.msg("Pong received: " + payload)',
     'log.msg("Pong received: %r" % payload)', 1, "debug output only"),
    (r"fuzzing\.py", "webdir.putChild('cwd', curdir)",
     "webdir.putChild(b'cwd', curdir)", 1, "Twisted takes bytes there"),

    # --- modes that are not ported ---------------------------------------------------
    (r"wstest\.py", "import serializer\n", "", 1, "mode 'serializer' (WAMP) is not ported"),
    (r"wstest\.py", "            'serializer'\n", "", 1, "ditto"),
]

AUTOBAHN_EDITS = [
    (r"twisted/websocket\.py", "import twisted.internet.protocol\n",
     "import twisted.internet.protocol\nimport txaio\ntxaio.use_twisted()\n", 1,
     "txaio 2.1.0 chose Twisted by itself; the versions that exist as wheels want to be told"),
    (r"websocket/protocol\.py", "range(payload_len / len(payload))", "range(payload_len // len(payload))", 1,
     "integer division in sendFrame(payload_len = ...): range() takes no float"),
    (r"websocket/protocol\.py", "self.remoteCloseReason = reasonRaw.decode('utf8')",
     "self.remoteCloseReason = reasonRaw.decode('utf8', 'surrogatepass')", 1,
     "Python 2's UTF-8 codec accepted surrogates: keep going to the same verdict (the "
     "payload was judged by the library's own validator one line above) rather than raise"),
]


def read(path):
    with open(path, "rb") as f:
        return f.read().decode("latin-1").replace("\r\n", "\n")


def write(path, text):
    with open(path, "wb") as f:
        f.write(text.encode("latin-1"))


def apply(files, edits):
    bad = []
    for pattern, old, new, expected, why in edits:
        n = 0
        for name in files:
            if re.fullmatch(pattern, name):
                n += files[name].count(old)
                files[name] = files[name].replace(old, new)
        if n != expected:
            bad.append("%s: expected %d match(es), found %d: %r" % (pattern, expected, n, old))
    if bad:
        sys.exit("port_to_py3: these sources are not the pinned ones:\n  " + "\n  ".join(bad))


def load(top, skip):
    files = {}
    for d, _, names in os.walk(top):
        for n in names:
            rel = os.path.relpath(os.path.join(d, n), top)
            if n.endswith(".py") and not re.match(skip, rel):
                files[rel] = read(os.path.join(top, rel))
    return files


def main(suite, autobahn):
    # Not used by the WebSocket modes (WAMP, wsperf, ...); left as they are.
    skip = r"wamp|wsperf|serializer|testdb|testrun|interfaces|rinterfaces|util"
    files = load(suite, skip)
    for name in files:
        # so that a literal's characters are its bytes (see above)
        files[name] = re.sub(r"\A((?:.*\n)?.*coding[:=]\s*)utf-8", r"\1latin-1", files[name])
    apply(files, SUITE_EDITS)
    for name, text in files.items():
        if not text.isascii() and "coding=latin-1" not in text[:200]:
            sys.exit("port_to_py3: non-ASCII source without a coding line: " + name)

    # write before converting: fix_import looks at the files beside the one it converts
    for name, text in files.items():
        write(os.path.join(suite, name), text)
    tool = RefactoringTool(FIXERS)
    for name, text in sorted(files.items()):
        path = os.path.join(suite, name)
        write(path, str(tool.refactor_string(text + "\n", path)))
    write(os.path.join(suite, "_py3.py"), HELPER)

    files = load(autobahn, r"wamp|asyncio|.*/test/")
    apply(files, AUTOBAHN_EDITS)
    for name, text in files.items():
        write(os.path.join(autobahn, name), text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
