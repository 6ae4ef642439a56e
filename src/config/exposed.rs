//! Files that hold secrets and can be read by others than Forebay.

use std::path::Path;

/// What is wrong with who may read a file, and the way out; `None` if nothing is, or if it cannot be looked at.
///
/// Others must not read it at all, and its group only where that is how Forebay itself gets at it: a file of root's for
/// the group that Forebay runs in, as PostgreSQL allows it for private keys. Root, who looks before the service does, is
/// not told to shut that out.
#[cfg(unix)]
pub(super) fn by_others(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let found = std::fs::metadata(path).ok()?;
    let mode = found.mode() & 0o777;
    let is_for_us = found.uid() == 0
        && match rustix::process::geteuid().as_raw() {
            0 => is_group_of_service(found.gid()),
            _ => is_our_group(found.gid()),
        };
    let who = match (mode & 0o004 != 0, mode & 0o040 != 0) {
        (true, _) => "other users of this machine",
        (false, true) if !is_for_us => "its group",
        _ => return None,
    };
    let shown = path.display();
    // Kubernetes mounts a secret as links to files that only its own configuration can change.
    let is_mounted = std::fs::read_link(path).is_ok_and(|target| target.starts_with("..data"));
    let way_out = match is_mounted {
        true => "set defaultMode: 0400 of the volume, with fsGroup 0440".to_owned(),
        false => format!("run chmod 600 {shown}"),
    };
    Some(format!("{shown} can be read by {who} (mode {mode:04o}); {way_out}"))
}

#[cfg(unix)]
fn is_our_group(group: u32) -> bool {
    let mut all = rustix::process::getgroups().unwrap_or_default();
    all.push(rustix::process::getegid());
    all.iter().any(|ours| ours.as_raw() == group)
}

/// That of `conf/forebay.service` and of the packages.
#[cfg(unix)]
fn is_group_of_service(group: u32) -> bool {
    let known = nix::unistd::Group::from_name("forebay").ok().flatten();
    known.is_some_and(|known| known.gid.as_raw() == group)
}

#[cfg(not(unix))]
pub(super) fn by_others(_: &Path) -> Option<String> {
    None
}
