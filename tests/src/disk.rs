//! A small private disk that a test can fill.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

/// A tmpfs in its own mount namespace, which can be mounted without privileges. It disappears when this value
/// is dropped. Only processes that [enter](SmallDisk::enter) the namespace see it.
pub struct SmallDisk {
    holder: Child,
    directory: PathBuf,
}

impl SmallDisk {
    /// Creates the directory, and mounts a disk of `kib` KiB there.
    pub async fn mount(directory: &Path, kib: u32) -> Self {
        fs::create_dir_all(directory).unwrap();
        let script = format!("mount -t tmpfs -o size={kib}k tmpfs \"$0\" && echo mounted && exec cat");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (mut said, stdout) = (vec![0; "mounted".len()], holder.stdout.as_mut().unwrap());
        let mounted = stdout.read_exact(&mut said).await;
        assert!(
            mounted.is_ok() && said == b"mounted",
            "a small disk cannot be mounted, see above: this needs user namespaces (sysctl kernel.unprivileged_userns_clone=1; \
             in a container the capability SYS_ADMIN)"
        );
        Self {
            holder,
            directory: directory.to_owned(),
        }
    }

    /// Returns the mount point, as processes that enter the namespace see it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns a program and its first arguments, which run the command appended to them in the mount
    /// namespace. The command keeps the process id.
    pub fn enter(&self) -> Vec<String> {
        let target = self.holder.id().expect("it has not ended").to_string();
        [
            "nsenter",
            "--user",
            "--mount",
            "--preserve-credentials",
            "--target",
            &target,
            "--",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Fills all remaining space.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let full = loop {
            if let Err(error) = ballast.write_all(&[0; 4096]) {
                break error.kind();
            }
        };
        assert_eq!(full, ErrorKind::StorageFull);
    }

    /// Frees the space that [`SmallDisk::fill`] has used.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Returns the path of the file that fills the disk, as this process sees it, which has not entered the
    /// namespace.
    fn ballast(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id().expect("it has not ended"));
        let directory = self.directory.strip_prefix("/").unwrap();
        Path::new(&root).join(directory).join("ballast")
    }
}
