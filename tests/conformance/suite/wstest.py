"""
wstest: the Autobahn|Testsuite's own command line, kept to the loopback address.

Upstream listens on every interface, on the port its specification names. Here the
specification names port 0, the system chooses, and the choice is printed as
`port NUMBER`, so that runs side by side never meet.
"""
import sys

sys.dont_write_bytecode = True
from autobahntestsuite import wstest  # noqa: E402  (installs the Twisted reactor)
from twisted.internet import reactor  # noqa: E402

listen_everywhere = reactor.listenTCP


def listen_on_loopback(port, factory, backlog=50, interface=""):
    listening = listen_everywhere(port, factory, backlog, interface or "127.0.0.1")
    print("port %d" % listening.getHost().port, flush=True)
    return listening


reactor.listenTCP = listen_on_loopback
sys.exit(wstest.run())
