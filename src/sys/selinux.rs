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

/// Whether a guest of libvirt's, whichever categories it has, may read a file with this label. The policy itself lists the
/// contexts that libvirt starts guests in (`virtual_domain_context`); where it lists none there are no such guests. Where no
/// policy is loaded nobody can tell, and it says yes.
#[cfg(feature = "selinux")]
pub fn is_read_by_libvirt(label: &str) -> io::Result<bool> {
    if !running() {
        return Ok(true);
    }
    let contexts = selinux::path::virtual_domain_context().map_err(io::Error::other)?;
    let contexts = match std::fs::read_to_string(contexts) {
        Ok(contexts) => contexts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let class = selinux::SecurityClass::from_name("file").map_err(io::Error::other)?;
    let read = class.access_vector_bit("read").map_err(io::Error::other)?;
    let label_text = std::ffi::CString::new(label)?;
    let object = selinux::SecurityContext::from_c_str(&label_text, true);
    for context in contexts.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let guest = std::ffi::CString::new(with_range_of(context, label))?;
        let guest = selinux::SecurityContext::from_c_str(&guest, true);
        // (The loaded policy may not know a context of the list; then nobody runs in it.)
        if guest.check() != Some(false)
            && guest.query_access_decision(&object, class, read).map_err(io::Error::other)?.allowed & read
                != 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A process's context with the range of an object's: the process that reaches it if any of its type does.
#[cfg(feature = "selinux")]
fn with_range_of(context: &str, label: &str) -> String {
    let named: Vec<&str> = context.splitn(4, ':').take(3).collect();
    match label.splitn(4, ':').nth(3) {
        Some(range) => format!("{}:{range}", named.join(":")),
        None => named.join(":"),
    }
}

/// Cannot tell, and so says yes: this build has no SELinux support.
#[cfg(not(feature = "selinux"))]
pub fn is_read_by_libvirt(_label: &str) -> io::Result<bool> {
    Ok(true)
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

#[cfg(all(test, feature = "selinux"))]
mod tests {
    use super::with_range_of;

    #[test]
    fn a_reader_has_the_range_of_what_it_reads() {
        let guest = "system_u:system_r:svirt_t:s0";
        assert_eq!(
            with_range_of(guest, "system_u:object_r:svirt_image_t:s0:c3,c4"),
            "system_u:system_r:svirt_t:s0:c3,c4"
        );
        assert_eq!(with_range_of(guest, "system_u:object_r:virt_content_t"), "system_u:system_r:svirt_t");
    }
}
