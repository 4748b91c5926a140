//! File systems of a test's own, gone with it; they need root.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its own part

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const OPTIONS: &str = "loop,errors=remount-ro";

/// A mounted file system.
pub struct Mount {
    dir: tempfile::TempDir,
    /// Where it lives, when not in memory.
    image: Option<PathBuf>,
}

impl Mount {
    /// In memory. `None`: this user may not mount.
    pub fn tmpfs(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", text(dir.path())]);
        mounted.then_some(Self { dir, image: None })
    }

    /// An ext4 of so many megabytes in a file, as on a card. `None`: this user may not mount, or there are no loop devices.
    pub fn ext4(megabytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().with_extension("img");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(megabytes << 20).unwrap();
        // No blocks for root alone, so that full is full.
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])
            && run("mount", &["-o", OPTIONS, text(&image), text(dir.path())]);
        let mount = Self { dir, image: Some(image) };
        made.then_some(mount)
    }

    /// Makes the kernel treat it as a disk that fails: from now on it is read-only.
    pub fn abort(&self) {
        assert!(run("mount", &["-o", "remount,abort", text(self.path())]));
    }

    /// Unmounts, checks and mounts it again.
    pub fn mend(&mut self) {
        let image = self.image.clone().unwrap();
        assert!(run("umount", &[text(self.path())]));
        // 1: errors were found and mended.
        run("fsck.ext4", &["-y", text(&image)]);
        assert!(run("mount", &["-o", OPTIONS, text(&image), text(self.path())]));
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn remount(&self, options: &str) {
        assert!(run("mount", &["-o", &format!("remount,{options}"), text(self.path())]));
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l", text(self.path())]);
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command.args(args).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}
