"""What a TLS session is to the kernel: version, suite, keys, sequence number.

Begin with session.py; suites.py is the table of suites, schedule.py derives keys (RFC 8446
section 7), framing.py says what record headers may say, crypto_info.py how Linux is told a session,
counters.py and errors.py are what is counted and raised. It touches nothing else of kernel TLS.
"""

from umktls.ktls.session.session import Direction as Direction
from umktls.ktls.session.session import Session as Session
