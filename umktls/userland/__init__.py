"""What libc is to a daemon: system calls, the upcall service, blocking input and output."""
