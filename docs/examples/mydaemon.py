"""A client's handshake daemon by Python's ssl module: docs/writing-a-daemon.md goes through it."""

import os
import select
import ssl
import sys
import tempfile
from functools import partial
from pathlib import Path

from umktls.abi.rpctls import RpctlsErr
from umktls.errors import PeerError, UmktlsError
from umktls.ktls.session import Session
from umktls.ktls.session.schedule import next_traffic_secret
from umktls.ktls.session.suites import SUITES
from umktls.userland.libc import Kernel
from umktls.userland.streams import Deadline
from umktls.userland.upcalls import Connected, Upcalls

ALERT, HANDSHAKE, CLOSE_NOTIFY, UPDATE = 21, 22, b"\1\0", b"\x18\0\0\1"
SECRETS = {"tx": "CLIENT_TRAFFIC_SECRET_0", "rx": "SERVER_TRAFFIC_SECRET_0"}


def shake_hands(sock, keylog):
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if sock.transport_security() == "mtls":  # with `tls` the client shows nothing, even if asked
        context.load_cert_chain(certdir / "cert.pem", certdir / "certkey.pem")
    context.set_alpn_protocols(["sunrpc"])
    context.keylog_filename = keylog  # how the traffic secrets get out of the ssl module
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sock.peer_name())
    deadline = Deadline.after(sock.deadline().left() * 0.9)  # the rest is for the answer
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        finally:
            sock.write_all(outgoing.read(), deadline)  # what there is to say, an alert too
        incoming.write(sock.read_record(deadline))  # exactly one: nothing is read too far
    if tls.selected_alpn_protocol() != "sunrpc":
        raise PeerError("the server does not speak sunrpc")
    return tls


class Live:
    def __init__(self, sock):
        self.sock = sock
        with tempfile.NamedTemporaryFile("r") as keylog:
            tls = shake_hands(sock, keylog.name)
            log = dict(line.split()[::2] for line in keylog if not line.startswith("#"))
        self.suite = SUITES[tls.cipher()[0]]
        self.secrets = {way: bytes.fromhex(log[label]) for way, label in SECRETS.items()}
        self.set_keys("tx", renew=False)
        self.set_keys("rx", renew=False)
        sock.release()
        facts = {"version": tls.version(), "suite": self.suite.name, "alpn": "sunrpc"}
        kernel.utrace({"event": "handshake", "fd": sock.number, "peer": sock.peer_name(), **facts})

    def set_keys(self, way, renew=True):
        if renew:
            self.secrets[way] = next_traffic_secret(self.suite, self.secrets[way])
        self.sock.enable_tls(way, Session.from_secret(self.suite, self.secrets[way]))
        if not self.sock.tls_mode(way):
            raise PeerError(f"kernel TLS does not work for {way}")

    def rekey(self, request=1):
        self.sock.send_record(HANDSHAKE, UPDATE + bytes((request,)))
        self.set_keys("tx")

    def handle_record(self):
        record = self.sock.receive_record()
        if record.type == ALERT:
            if record.data != CLOSE_NOTIFY:
                kernel.utrace({"event": "alert", "fd": self.sock.number, "level": "fatal"})
            self.sock.send_record(ALERT, CLOSE_NOTIFY)
            self.sock.shutdown()
        elif record.data[-5:-1] == UPDATE:  # in front of it other messages may be
            self.set_keys("rx")
            if record.data[-1]:
                self.rekey(request=0)

    def end(self):
        self.sock.send_record(ALERT, CLOSE_NOTIFY)
        self.sock.close()


def connect(upcall):
    sock = upcall.take()
    try:
        sessions[upcall.session] = Live(sock)
        return Connected()
    except (UmktlsError, ssl.SSLError) as error:
        cert = isinstance(error, ssl.SSLCertVerificationError)
        why = {"phase": "certificate" if cert else "tls", "reason": str(error)}
        why["advice"] = f"compare the certificate with {cafile}" if cert else "see the peer's log"
        print(f"no session [connection {sock.connection_name()}]", *why.values(), flush=True)
        kernel.utrace({"event": "handshake-failed", "fd": sock.number, **why})
        sock.shutdown()
        sock.close()
        return Connected(reterr=RpctlsErr.RPCTLSERR_NOSSL)


def about_session(work, number):
    if number in sessions:
        work(sessions[number])
    return RpctlsErr.RPCTLSERR_OK if number in sessions else RpctlsErr.RPCTLSERR_NOSSL


work = {"HANDLERECORD": Live.handle_record, "REKEY": Live.rekey, "DISCONNECT": Live.end}
handlers = {name: partial(about_session, what) for name, what in work.items()}
certdir, cafile, sessions = Path(sys.argv[1]), sys.argv[2], {}
kernel = Kernel(Path(os.environ["UMKTLS_RUNDIR"]))
Upcalls(kernel, "rpctlscd", {**handlers, "CONNECT": connect}).start()
poller = select.poll()
poller.register(kernel.fileno(), 0)
poller.poll()  # until the host goes
