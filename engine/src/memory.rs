//! How much memory this process may take: what the system has left, and what its control group allows.

/// Bytes that can be allocated without swapping; `None` where the system does not say.
#[cfg(target_os = "linux")]
pub fn available() -> Option<u64> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).ok();
    let system = meminfo_available(&read("/proc/meminfo".as_ref())?);
    let group = read("/proc/self/cgroup".as_ref()).and_then(|own| cgroup_left(&own, &read));
    [system, group].into_iter().flatten().min()
}

/// Bytes that can be allocated without swapping; `None` where the system does not say.
#[cfg(not(target_os = "linux"))]
pub fn available() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// The most bytes that this process has had in memory so far; `None` where the system does not say.
#[cfg(target_os = "linux")]
pub fn peak() -> Option<u64> {
    kib_line(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The most bytes that this process has had in memory so far; `None` where the system does not say.
#[cfg(not(target_os = "linux"))]
pub fn peak() -> Option<u64> {
    None
}

#[cfg(any(target_os = "linux", test))]
fn meminfo_available(meminfo: &str) -> Option<u64> {
    kib_line(meminfo, "MemAvailable:")
}

/// The bytes of a line `name    123 kB`.
#[cfg(any(target_os = "linux", test))]
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix(name))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that any group above this process has left (version 2 of control groups). Page cache counts as left:
/// the kernel gives it up.
#[cfg(any(target_os = "linux", test))]
fn cgroup_left(own: &str, read: &dyn Fn(&std::path::Path) -> Option<String>) -> Option<u64> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = root.join(path);
    let groups = path.ancestors().take_while(|dir| dir.starts_with(root));
    groups.filter_map(|dir| group_left(&|file: &str| read(&dir.join(file)))).min()
}

#[cfg(any(target_os = "linux", test))]
fn group_left(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // `max` is no number: no limit.
    let limit = number("memory.max")?;
    let used = number("memory.current")?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache: u64 = stat
        .lines()
        .filter_map(|line| {
            let (name, n) = line.split_once(' ')?;
            matches!(name, "inactive_file" | "active_file").then(|| n.trim().parse::<u64>().ok())?
        })
        .fold(0, u64::saturating_add);
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       16 kB\nMemFree: 1 kB\nMemAvailable:    8123 kB\n";
        assert_eq!(meminfo_available(text), Some(8123 * 1024));
        assert_eq!(meminfo_available("MemTotal: 16 kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let read = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "700\n",
                "/sys/fs/cgroup/a/memory.stat" => "anon 400\ninactive_file 200\nactive_file 100\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(cgroup_left("0::/a/b\n", &read), Some(600));
        assert_eq!(cgroup_left("0::/\n", &read), None);
        assert_eq!(cgroup_left("5:memory:/x\n", &read), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
        assert!(peak().is_none_or(|bytes| bytes > 1 << 16));
    }
}
