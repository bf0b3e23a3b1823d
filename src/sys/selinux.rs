//! SELinux: the context that the next exec gives to this process.

use std::io;

/// Whether the running kernel enforces or at least runs SELinux.
#[cfg(feature = "selinux")]
#[must_use]
pub fn running() -> bool {
    selinux::kernel_support() != selinux::KernelSupport::Unsupported
}

/// Asks for `context` at this thread's next exec. Needs `/proc`, so it comes before the change of root.
///
/// An error where the kernel runs no SELinux: a context that nothing checks must not look like confinement.
#[cfg(feature = "selinux")]
pub fn set_exec_context(context: &str) -> io::Result<()> {
    if !running() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel runs no SELinux"));
    }
    let context = std::ffi::CString::new(context)?;
    selinux::SecurityContext::from_c_str(&context, true).set_for_next_exec().map_err(io::Error::other)
}

/// Whether the running kernel runs SELinux; this build cannot tell and would not use it.
#[cfg(not(feature = "selinux"))]
#[must_use]
pub fn running() -> bool {
    false
}

/// Refuses: this build has no SELinux support.
#[cfg(not(feature = "selinux"))]
pub fn set_exec_context(_context: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "svirt was built without SELinux support"))
}
