"""The mount options of any file system: sizes, locks, users, what mount(8) and sshfs(1) know."""

from __future__ import annotations

from . import optionvalues as values
from .optionrow import Option, flag, ignored, refused, to_fuse, words
from .optionvalues import Unheeded

__all__ = ["GENERAL", "LOCKS", "OWNERS", "SSH", "TRANSFER"]

_LOCAL = "locks are local to this machine: other clients do not see them"

TRANSFER = (
    Option(
        "rsize",
        "bytes of a READ at most (1048576)",
        ("rsize",),
        convert=values.transfer_size,
        takes="BYTES",
    ),
    Option(
        "wsize",
        "bytes of a WRITE at most (1048576)",
        ("wsize",),
        convert=values.transfer_size,
        takes="BYTES",
    ),
    Option(
        "max_read",
        "the same as rsize; the smaller one counts",
        ("max_read",),
        convert=values.transfer_size,
        takes="BYTES",
    ),
    Option(
        "max_write",
        "the same as wsize; the smaller one counts",
        ("max_write",),
        convert=values.transfer_size,
        takes="BYTES",
    ),
    Option(
        "readahead",
        "bytes read ahead per file (8388608)",
        ("readahead",),
        convert=values.number(0, 1 << 26),
        takes="BYTES",
    ),
    Option("no_readahead", "read nothing but what is asked for", ("readahead",), 0),
    Option("sync", "write at once, not behind", ("sync",), True),
    Option("sshfs_sync", "the same as sync", ("sync",), True),
    Option("async", "write behind (the default)", ("sync",), False),
    *flag("requests are as large as rsize= and wsize= say (always so)", "big_writes", "large_read"),
    *ignored(
        "this mount's requests are its own affair",
        *("max_readahead=", "max_background=", "congestion_threshold=", "max_conns="),
        *("async_read", "sync_read", "direct_io", "splice_read", "splice_write", "splice_move"),
        *("no_splice_read", "no_splice_write", "no_splice_move", "atomic_o_trunc"),
        *("sync_readdir", "readdirsize=", "wcommitsize=", "noncontigwr", "namlen=", "bsize="),
        *("clone_fd", "max_idle_threads=", "max_threads=", "writeback_cache[=]"),
    ),
)

LOCKS = (
    *flag(
        "locks are local to this machine (always so)",
        "nolock",
        "nolockd",
        "no_remote_lock",
        "no_remote_flock",
        "no_remote_posix_lock",
    ),
    *ignored(_LOCAL, "lock"),
    words(
        "local_lock",
        "which locks are local",
        (),
        {
            "all": None,
            "none": Unheeded(_LOCAL),
            "flock": Unheeded(_LOCAL),
            "posix": Unheeded(_LOCAL),
        },
    ),
)

OWNERS = (
    Option(
        "allow_other",
        "other users may use the mount (the default for root)",
        ("allow_other",),
        True,
    ),
    Option("noallow_other", "who mounts alone may use it, root too", ("allow_other",), False),
    *to_fuse("root may use the mount, too", "allow_root"),
    Option(
        "default_permissions",
        "the kernel checks modes, too (the default where other users are let in)",
        ("default_permissions",),
        True,
    ),
    Option(
        "nodefault_permissions",
        "the server alone checks: for what it grants against the mode",
        ("default_permissions",),
        False,
    ),
    Option("uid", "show all files as this user's", ("uid",), convert=values.user, takes="USER"),
    Option("gid", "show all files as this group's", ("gid",), convert=values.group, takes="GROUP"),
    Option(
        "umask",
        "show all files with the mode 0777 less these bits",
        ("umask",),
        convert=values.mode,
        takes="OCTAL",
    ),
    words(
        "idmap",
        "user: who owns the export's root is who mounts it, in both directions",
        ("idmap_user",),
        {"none": False, "user": True},
        {"file": "maps of users in files are not read"},
    ),
    *refused(
        "maps of users in files are not read: idmap=user, uid= or gid=",
        "uidfile=",
        "gidfile=",
        "nomap=",
    ),
    *flag("inode numbers are the server's (always so)", "use_ino", "readdir_ino"),
    *flag("no access control lists (always so)", "noacl", "noposixacl"),
    *ignored("there are no access control lists", "acl", "posixacl"),
    *ignored("16 groups are sent, as AUTH_SYS has them", "maxgroups="),
    *ignored(
        "the server's names are taken as they are",
        "follow_symlinks",
        "transform_symlinks",
        "no_check_root",
        "disable_hardlink",
        "hard_remove",
        "workaround=",
    ),
    *refused(
        "names are bytes, and paths the server's", "modules=", "subdir=", "from_code=", "to_code="
    ),
)

GENERAL = (
    Option("ro", "read only", ("read_only",), True),
    Option("rw", "read and write (the default)", ("read_only",), False),
    Option(
        "remount",
        "change ro, rw and the options from suid to noatime of a mount that is there",
        ("remount",),
        True,
    ),
    *to_fuse(
        "setuid programs and device files count (mount(8)); only root may ask for it", "suid", "dev"
    ),
    *to_fuse("setuid programs and device files do not count (the default)", "nosuid", "nodev"),
    *(
        Option(
            f"allow_{word}",
            f"as `{word}`, which mount(8) and fstab(5) may keep to themselves",
            fuse=True,
            means=word,
        )
        for word in ("suid", "dev")
    ),
    *to_fuse("as mount(8)", "exec", "noexec", "atime", "noatime", "dirsync"),
    *flag(
        "the server keeps times of access (always so)",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "diratime",
        "nodiratime",
        "lazytime",
        "nolazytime",
    ),
    Option("sloppy", "unknown options are ignored, with a warning", ("sloppy",), True),
    Option(
        "fsname",
        "the name of what is mounted, in lists of mounts",
        convert=values.text,
        takes="TEXT",
        fuse=True,
    ),
    Option(
        "subtype", "its type behind `fuse.` (umktls)", convert=values.text, takes="TEXT", fuse=True
    ),
    *(
        Option(
            name, "a label of SELinux, as mount(8)", convert=values.text, takes="LABEL", fuse=True
        )
        for name in ("context", "fscontext", "defcontext", "rootcontext")
    ),
    *to_fuse("unmount when the mount's process ends, whatever the reason", "auto_unmount"),
    *flag("a directory that is not empty will do (always so)", "nonempty"),
    Option("user", "for mount(8) and fstab(5)", convert=values.anything, takes="NAME", bare=True),
    *flag(
        "for mount(8) and fstab(5)",
        "defaults",
        "nouser",
        "users",
        "owner",
        "group",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
    ),
    *(
        Option(
            name,
            "for mount(8), systemd and others; not looked at",
            convert=values.anything,
            takes="...",
            bare=True,
        )
        for name in ("x-*", "X-*")
    ),
    Option("comment", "for fstab(5)", convert=values.anything, takes="TEXT"),
    *flag("what the kernel shows of a mount", "blkdev"),
    *(
        Option(name, "what the kernel shows of a mount", convert=values.anything, takes="...")
        for name in ("user_id", "group_id", "rootmode", "fd", "blksize")
    ),
    *ignored(
        "NFS has no such thing",
        "iversion",
        "noiversion",
        "mand",
        "nomand",
        "quota",
        "noquota",
        "usrquota",
        "grpquota",
        "silent",
        "loud",
        "grpid",
        "nogrpid",
    ),
)

_NO_SSH = "there is no ssh here: the server's certificate comes from a CA in ca.pem (certs=DIR)"
SSH = (
    *refused(
        _NO_SSH,
        *("ssh_command=", "ssh_protocol=", "sftp_server=", "directport=", "vsock=", "passive"),
        *("slave", "password_stdin", "IdentityFile=", "ProxyJump=", "ProxyCommand="),
        *("StrictHostKeyChecking=", "UserKnownHostsFile=", "User=", "Port="),
    ),
    *ignored(
        "an option of ssh, and there is no ssh here",
        *("ServerAliveInterval=", "ServerAliveCountMax=", "Compression=", "compression="),
        *("ConnectTimeout=", "TCPKeepAlive=", "ControlMaster=", "ControlPath=", "Ciphers="),
        *("LogLevel=", "BatchMode=", "sshfs_debug", "sshfs_verbose", "debug"),
    ),
)
