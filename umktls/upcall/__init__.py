"""The upcall's protocols: programs, system calls, states. Bytes and events, no sockets."""
