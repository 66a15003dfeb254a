"""TLS as the daemons need it: pyOpenSSL, and what it lets one see.

Begin with tlsadapter/endpoint.py, in the only package that knows OpenSSL; failure.py says for
people why a handshake failed. It touches no kernel.
"""
