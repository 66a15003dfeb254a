"""RPC-with-TLS in front of servers that have none: what comes sealed goes to a backend in clear."""
