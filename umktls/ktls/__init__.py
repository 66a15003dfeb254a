"""A model of kernel TLS: records, keys, socket options. No sockets, no clock."""
