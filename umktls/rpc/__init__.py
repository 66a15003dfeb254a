"""ONC RPC without I/O (RFC 5531): XDR, record marking, messages, and both sides of a call.

Begin with xdr.py and message.py, then client.py and server.py.
"""
