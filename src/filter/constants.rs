//! Names of constants that fragments may use for argument values; numbers are those of Linux on x86-64.

/// Looks a name up, or reads a number (`0x…` or decimal).
pub(super) fn value(name: &str) -> Option<u64> {
    if let Some(hex) = name.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.parse().ok();
    }
    TABLE.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

macro_rules! constants {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), libc::$name as u64)),*] };
}

/// Those that libc knows.
const LIBC: &[(&str, u64)] = constants![
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_PACKET,
    AF_UNIX,
    CLONE_FS,
    CLONE_FILES,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_SIGHAND,
    CLONE_SYSVSEM,
    CLONE_THREAD,
    CLONE_VM,
    CLONE_VFORK,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FIONBIO,
    FIONREAD,
    F_ADD_SEALS,
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_GETLK,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_SETFD,
    F_SETFL,
    MADV_COLD,
    MADV_DODUMP,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MAP_ANONYMOUS,
    O_ACCMODE,
    O_APPEND,
    O_CREAT,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    PROT_EXEC,
    PROT_WRITE,
    PR_CAPBSET_READ,
    PR_GET_DUMPABLE,
    PR_GET_NAME,
    PR_MCE_KILL,
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_PTRACER,
    PR_SET_TIMERSLACK,
    PR_SET_VMA,
    RLIMIT_NOFILE,
    SIGABRT,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    SO_ERROR,
    SO_KEEPALIVE,
    SO_PEERCRED,
    SO_SNDBUF,
    SO_TYPE,
    SO_ZEROCOPY,
    TCGETS,
    TCP_CORK,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
    IPPROTO_IP,
    IPPROTO_TCP,
    IP_TOS,
    TIOCOUTQ,
    TIOCGPTN,
    TIOCGWINSZ,
    TIOCSPTLCK,
];

/// Those that libc lacks, with the header that has them.
const OTHERS: &[(&str, u64)] = &[
    // asm/prctl.h
    ("ARCH_SET_FS", 0x1002),
    ("ARCH_GET_XCOMP_SUPP", 0x1021),
    ("ARCH_GET_XCOMP_PERM", 0x1022),
    ("ARCH_REQ_XCOMP_GUEST_PERM", 0x1025),
    ("ARCH_GET_XCOMP_GUEST_PERM", 0x1024),
    ("ARCH_CET_STATUS", 0x3001),
    ("ARCH_SHSTK_STATUS", 0x5005),
    // linux/fs.h
    ("BLKDISCARD", 0x1277),
    ("BLKGETSIZE64", 0x8008_1272),
    ("BLKPBSZGET", 0x127b),
    ("BLKROGET", 0x125e),
    ("BLKROTATIONAL", 0x127e),
    ("BLKSECTGET", 0x1267),
    ("BLKSSZGET", 0x1268),
    ("BLKZEROOUT", 0x127f),
    ("FS_IOC_FIEMAP", 0xc020_660b),
    // xfs/xfs_fs.h, which QEMU asks for on every file system that says it is XFS.
    ("XFS_IOC_DIOINFO", 0x800c_581e),
    // linux/cdrom.h
    ("CDROM_DRIVE_STATUS", 0x5326),
    // linux/if_tun.h
    ("TUNGETFEATURES", 0x8004_54cf),
    ("TUNGETIFF", 0x8004_54d2),
    ("TUNGETVNETHDRSZ", 0x8004_54d7),
    ("TUNSETCARRIER", 0x4004_54e2),
    ("TUNSETLINK", 0x4004_54cd),
    ("TUNSETOFFLOAD", 0x4004_54d0),
    ("TUNSETSNDBUF", 0x4004_54d4),
    ("TUNSETVNETBE", 0x4004_54de),
    ("TUNSETVNETHDRSZ", 0x4004_54d8),
    ("TUNSETVNETLE", 0x4004_54dc),
    // linux/vhost.h
    ("VHOST_GET_BACKEND_FEATURES", 0x8008_af26),
    ("VHOST_GET_FEATURES", 0x8008_af00),
    ("VHOST_GET_VRING_BASE", 0xc008_af12),
    ("VHOST_SET_BACKEND_FEATURES", 0x4008_af25),
    ("VHOST_SET_FEATURES", 0x4008_af00),
    ("VHOST_SET_MEM_TABLE", 0x4008_af03),
    ("VHOST_SET_OWNER", 0xaf01),
    ("VHOST_SET_VRING_ADDR", 0x4028_af11),
    ("VHOST_SET_VRING_BASE", 0x4008_af12),
    ("VHOST_SET_VRING_CALL", 0x4008_af21),
    ("VHOST_SET_VRING_ERR", 0x4008_af22),
    ("VHOST_SET_VRING_KICK", 0x4008_af20),
    ("VHOST_SET_VRING_NUM", 0x4008_af10),
    ("VHOST_VSOCK_SET_GUEST_CID", 0x4008_af60),
    ("VHOST_VSOCK_SET_RUNNING", 0x4004_af61),
    // linux/kvm.h: the letter of every KVM command, in the place of _IOC_TYPE.
    ("IOC_TYPE", 0xff00),
    ("KVMIO", 0xae00),
];

/// Both.
static TABLE: std::sync::LazyLock<Vec<(&str, u64)>> =
    std::sync::LazyLock::new(|| LIBC.iter().chain(OTHERS).copied().collect());
