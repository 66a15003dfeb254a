"""The handshake daemons `rpctlscd` and `rpctlssd`: ordinary processes, TLS by pyOpenSSL."""
