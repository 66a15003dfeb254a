"""The kinds of events, as a table (see umktls.kernel.ground.schema)."""

from __future__ import annotations

from umktls.kernel.ground.schema import Kind

__all__ = ["KINDS"]

# One line for people per event; the fields in braces are the event's own. An event that lacks a
# field its line names shows a question mark there rather than an error. Where the event has a level
# with a line of its own, that is the one.
KINDS = {
    # ---- the host
    "host-up": Kind(
        "host",
        "{role} host {host} is up, run directory {rundir}",
        "the run directory and its sockets are there",
        "role rundir",
    ),
    "host-down": Kind("host", "host goes down", "connections end now, then the run directory goes"),
    "worker-started": Kind(
        "host",
        "worker {worker} started as process {pid}",
        "one of several processes that are one host is there",
        "worker pid",
    ),
    "worker-gone": Kind(
        "host",
        "worker {worker} (process {pid}) is gone: it {reason}; the next one is started "
        "in {pause} s",
        "one of them has ended",
        "worker pid reason pause",
    ),
    "exports": Kind(
        "host", "exported from now on: {what}", "the exports file was read again", "what"
    ),
    "crowded": Kind(
        "host",
        "{connections} connections, of which {strangers} have shown nothing: {outcome}",
        "a server has as many connections as it takes",
        "connections strangers outcome",
    ),
    "warning": Kind(
        "host", "{reason}", "something is not as it should be, and ends nothing", "reason"
    ),
    "capture": Kind(
        "host",
        "what passes the sockets is captured into {path}, {how}",
        "a capture begins; how: with secrets, or without",
        "path how",
    ),
    "capture-ended": Kind(
        "host", "the capture into {path} has ended", "the file is complete", "path"
    ),
    "meddled": Kind("host", "on purpose: {what}", "a button of `umktls watch`", "what"),
    # ---- daemons
    "daemon-started": Kind(
        "daemon", "{daemon} started as process {pid}", "the host has started it", "daemon pid"
    ),
    "daemon-registered": Kind(
        "daemon",
        "process {pid} registered as {daemon} at {path}",
        "upcalls can go to it",
        "daemon pid path version",
    ),
    "daemon-unregistered": Kind(
        "daemon",
        "process {pid} is no {daemon} any more",
        "its system-call connections have ended, or it said so",
        "daemon pid",
    ),
    "daemon-refused": Kind(
        "daemon",
        "{daemon} cannot be started: {reason}; the next try is in {pause} s",
        "the machine refuses the process",
        "daemon reason pause",
    ),
    "daemon-gone": Kind(
        "daemon",
        "{daemon} (process {pid}) is gone: {reason}",
        "a daemon that the host had started has ended",
        "daemon pid reason",
    ),
    "reloaded": Kind(
        "daemon",
        "the daemon has read its files again: {outcome}",
        "after SIGHUP",
        "outcome",
    ),
    # ---- TCP
    "tcp-connect": Kind(
        "tcp", "TCP connection to {peer} from {local}", "a client has connected", "peer local"
    ),
    "tcp-accept": Kind("tcp", "TCP connection from {peer}", "a server has accepted", "peer"),
    "cut-off": Kind(
        "tcp",
        "the connection ends, to be made anew: {reason}",
        "the kernel itself ends it",
        "reason",
    ),
    "closed": Kind(
        "tcp", "connection closed: {reason}", "the kernel has dropped the socket", "reason"
    ),
    "reconnect": Kind(
        "tcp",
        "connection to {peer} lost ({reason}); {waiting} calls wait for a new one",
        "a client's connection has ended while the mount goes on",
        "peer reason waiting",
    ),
    "server-away": Kind(
        "tcp",
        "{server} is away: {reason}; {waiting} calls wait",
        "said once, until it is back",
        "server reason waiting",
    ),
    "server-try": Kind(
        "tcp",
        "try {tries} to reach {server} failed: {reason}; the next in {pause:g} s",
        "no connection could be made",
        "server tries reason pause",
    ),
    "server-back": Kind(
        "tcp",
        "{server} answers again, after {seconds:.1f} s",
        "the end of server-away",
        "server seconds",
    ),
    # ---- RPC
    "probe": Kind(
        "rpc",
        "probe: NULL call with credential flavor AUTH_TLS",
        "a client asks for TLS, or a server is asked (RFC 9289 section 4.1)",
    ),
    "starttls": Kind(
        "rpc",
        "STARTTLS answered; reading stops, the socket waits for the daemon",
        "the probe's answer has come, or goes",
    ),
    "first-rpc": Kind(
        "rpc", "first {how} RPC {direction}", "the first call behind the handshake", "direction how"
    ),
    "post-handshake": Kind(
        "rpc",
        "{records} records, {bytes} bytes, waited after the handshake and did not reach RPC",
        "known when the first application data has come",
        "records bytes",
    ),
    "handed-on": Kind(
        "rpc",
        "no connection more to {server} ({reason}); {waiting} calls go over another one",
        "with nconnect=",
        "server reason waiting",
    ),
    "clear-text": Kind(
        "rpc",
        "calls of {peer} come in clear: there is no TLS on this connection",
        "said once for each connection",
        "peer",
    ),
    "rejected": Kind("rpc", "RPC rejected: {reason}", "a server refuses a credential", "reason"),
    "refused": Kind(
        "rpc",
        "{what} is not given to {peer}: {reason}",
        "a server refuses an export",
        "what peer reason",
    ),
    "garbage": Kind(
        "rpc",
        "garbage on {where}: {reason}",
        "bytes that make no sense, from a peer or from a process",
        "where reason",
    ),
    "mountd": Kind(
        "rpc",
        "the MOUNT protocol is at {where}, called in {how}",
        "where it is not on the connection itself",
        "where how",
    ),
    "mounted": Kind("rpc", "mounted {what}", "the root is known", "what"),
    "mount-delayed": Kind(
        "rpc",
        "not mounted yet: {reason}; next try in {seconds:g} s",
        "the server cannot be reached yet",
        "reason seconds",
    ),
    "disabled": Kind(
        "rpc",
        "every call with a credential is rejected: the daemon says so",
        "RPCTLS_FLAGS_DISABLED",
    ),
    "certuser": Kind(
        "rpc",
        "AUTH_SYS calls are done as user {uid} with the groups {gids}, of the certificate",
        "RPCTLS_FLAGS_CERTUSER",
        "uid gids",
    ),
    "call-sent": Kind(
        "rpc",
        "{procedure} sent, xid {xid:#x}, {bytes} bytes",
        "a client sends a call",
        "procedure program version_number xid bytes attempt request",
        watched=True,
    ),
    "call-received": Kind(
        "rpc",
        "{procedure} came, xid {xid:#x}, {bytes} bytes",
        "a server has a whole call",
        "procedure program version_number xid bytes",
        watched=True,
    ),
    "reply-sent": Kind(
        "rpc",
        "reply to xid {xid:#x}: {bytes} bytes",
        "a server answers",
        "xid bytes",
        watched=True,
    ),
    "reply-received": Kind(
        "rpc",
        "{procedure} answered, xid {xid:#x}, {bytes} bytes, after {seconds:.6f} s",
        "a client has the answer",
        "procedure xid bytes seconds request",
        watched=True,
    ),
    # ---- upcalls
    "queued": Kind(
        "upcall",
        "no {daemon} has time now; {waiting} connections wait for one",
        "all places of all daemons are taken",
        "daemon waiting",
    ),
    "upcall": Kind(
        "upcall",
        "upcall {procedure} to {daemon}",
        "the kernel calls a daemon",
        "procedure daemon xid pid",
    ),
    "upcall-answered": Kind(
        "upcall",
        "upcall {procedure} answered after {seconds:.3f} s: {result}",
        "the upcall has ended, whichever way",
        "procedure result seconds xid",
    ),
    "upcall-state": Kind(
        "upcall",
        "upcall {procedure} is {state}",
        "a step in the table of umktls/upcall/states.py",
        "procedure xid state",
        watched=True,
    ),
    "socket-taken": Kind(
        "upcall",
        "socket taken by process {pid} as descriptor {fd}",
        "from here on the daemon owns the close",
        "pid fd",
    ),
    "lookup-failed": Kind(
        "upcall",
        "process {pid} asks for the socket {cookie}, and no upcall is out for that",
        "rpctls_syscall with a cookie that nobody offers",
        "pid cookie",
    ),
    "late-answer": Kind(
        "upcall",
        "{daemon} (process {pid}) answered {procedure} too late",
        "the upcall had ended before",
        "daemon pid procedure",
    ),
    "orphaned": Kind(
        "upcall",
        "{daemon} (process {pid}) has gone: the session waits for another one, RPC goes on",
        "the daemon of a session has ended",
        "daemon pid",
    ),
    "adopted": Kind(
        "upcall",
        "{daemon} (process {pid}) goes on with the session",
        "another daemon has taken it",
        "daemon pid",
    ),
    "rekey": Kind("upcall", "the kernel asks the daemon for new keys", "the upcall REKEY follows"),
    "retire": Kind(
        "upcall",
        "a new connection is to take the place of this one: {reason}",
        "keys are renewed by a new connection",
        "reason",
    ),
    "disconnect": Kind(
        "upcall",
        "connection is to be closed: {reason}",
        "the upcall DISCONNECT follows",
        "reason",
    ),
    # ---- system calls
    "syscall": Kind(
        "syscall",
        "{name}({what}) by process {pid}: {result}",
        "a daemon's system call was answered; fd is -1 where it is about no socket",
        "name what pid fd result seconds",
        watched=True,
    ),
    # ---- KTLS
    "tx-keys": Kind(
        "ktls",
        "TX keys set: {suite}, first sequence number {sequence}",
        "from here on the kernel seals",
        "suite sequence",
    ),
    "rx-keys": Kind(
        "ktls",
        "RX keys set: {suite}, first sequence number {sequence}, "
        "{waiting} bytes wait in the receive queue",
        "from here on the kernel opens",
        "suite sequence waiting",
    ),
    "mode": Kind(
        "ktls",
        "kernel TLS: sending {tx} ({engine_tx}), receiving {rx} ({engine_rx})",
        "the kernel's own look at whether it works",
        "tx rx engine_tx engine_rx",
    ),
    "tx-mode": Kind(
        "ktls",
        "sending goes on in mode {mode} ({engine})",
        "TCP_TXTLS_MODE was set",
        "mode engine",
    ),
    "card-disabled": Kind(
        "ktls",
        "the card is given up: {percent} % had to be sent again",
        "as FreeBSD's ktls_disable_ifnet",
        "percent done",
    ),
    "held-back": Kind(
        "ktls",
        "the card held back {bytes} bytes until it had the key",
        "with the engine toe",
        "bytes",
    ),
    "bounce": Kind(
        "ktls",
        "{direction} is bounced: the daemon has an end of a socket pair",
        "kernel TLS does not take this direction",
        "direction",
    ),
    "dropped-record": Kind(
        "ktls",
        "a sealed record of {bytes} bytes in front of the clear data was dropped",
        "with the engine null",
        "bytes",
    ),
    "control-record": Kind(
        "ktls",
        "record of type {type} ({name}), {bytes} bytes, {fate}",
        "it is at the head of the receive queue",
        "type name bytes fate",
    ),
    "half-state": Kind(
        "ktls",
        "{direction} half is {state}",
        "a step in the tables of umktls/ktls/socket/states.py",
        "direction state",
        watched=True,
    ),
    "record-sealed": Kind(
        "ktls",
        "record {sequence} sealed: {name}, {bytes} bytes, {length} on the wire",
        "a record goes",
        "record direction type name bytes length sequence generation engine",
        watched=True,
    ),
    "record-opened": Kind(
        "ktls",
        "record {sequence} opened: {name}, {bytes} bytes, {length} on the wire",
        "a record came",
        "record direction type name bytes length sequence generation engine",
        watched=True,
    ),
    "record-refused": Kind(
        "ktls",
        "record {sequence} of {length} bytes does not open: {reason}",
        "a record is bad",
        "record direction length sequence generation engine reason",
        watched=True,
    ),
    # ---- TLS, as the daemon tells it
    "handshake": Kind(
        "tls",
        "handshake done: {version}, {suite}, ALPN {alpn}, peer {peer}, "
        "client certificate {client_certificate}, resumed: {resumed}",
        "both sides have finished",
        "version suite",
        "alpn peer resumed verified client_certificate remark",
    ),
    "handshake-failed": Kind(
        "tls",
        "handshake failed in phase {phase}: {reason}",
        "there is no TLS on this connection",
        "phase reason",
        "advice",
    ),
    "ticket": Kind(
        "tls",
        "session ticket kept for the next connection",
        "a NewSessionTicket has come",
        maybe="lifetime bytes",
    ),
    "ticket-dropped": Kind(
        "tls",
        "session ticket dropped: nobody has the handshake that it belongs to",
        "an adopted session has no SSL object",
        maybe="lifetime bytes",
    ),
    "key-update": Kind(
        "tls",
        "key update, {direction} generation {generation}",
        "a KeyUpdate was sent, or has come",
        "direction generation",
        "requested",
    ),
    "alert": Kind(
        "tls",
        "alert: {description}: {reason}",
        "an alert was sent or has come",
        "level description",
        "reason phase",
    ),
    "swallowed": Kind(
        "tls",
        "SSL_read swallowed a record of type {type} ({name}), {bytes} bytes: RPC never sees it",
        "in a direction that is bounced",
        "type name bytes",
    ),
    "flight": Kind(
        "tls",
        "a flight of the handshake: {messages}",
        "the daemon is about to send it",
        "messages bytes",
        watched=True,
    ),
    "handshake-message": Kind(
        "tls",
        "{name} {direction}, {bytes} bytes",
        "as the daemon has it in clear",
        "direction name bytes hex",
        watched=True,
    ),
    # ---- single steps
    "stopped": Kind(
        "host",
        "stands before: {step} {what}",
        "somebody goes through what the host does step by step (umktls watch --step)",
        "step what",
    ),
    "gone-on": Kind(
        "host",
        "goes on with: {step} {what}",
        "after stopped; no deadline has passed meanwhile",
        "step what seconds",
    ),
    # ---- fronts
    "carried": Kind(
        "front",
        "calls of {peer} ({who}) go to the backend {backend}",
        "a front has found a client its server",
        "peer who backend",
    ),
    "backend-up": Kind("front", "backend {what} answers again", "after backend-down", "what"),
    "backend-down": Kind(
        "front",
        "backend {what} does not answer: {reason}",
        "clients get another one",
        "what reason",
    ),
    "backends": Kind("front", "backends from now on: {what}", "their file was read again", "what"),
    "clients": Kind(
        "front", "who may come in was read again: {what}", "their file was read again", "what"
    ),
    # ---- the file system
    "request": Kind(
        "fs",
        "{name} asked for {object}",
        "FUSE asks",
        "name object request",
        watched=True,
    ),
    "request-answered": Kind(
        "fs",
        "{name} of {object} answered after {seconds:.6f} s: {result}",
        "FUSE has its answer",
        "name object result seconds request",
        watched=True,
    ),
}

# A line of its own where the event has this level.
LEVELS = {"alert fatal": "TLS failed in phase {phase}: {description}: {reason}"}
