//! A driver with matrix units: lavapipe of a Mesa that is newer than the machine's, with the C library it was built for, in a
//! folder of its own. Programs are run there by that library's loader; nothing is installed.

use crate::proc::{answer, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's stable release of 2025, whose backports have Mesa 26: lavapipe got matrix units after 25.0.
const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIBRARIES: &str = "root/usr/lib/x86_64-linux-gnu";

/// What a command needs to run on that driver.
pub(crate) struct Mesa {
    dir: PathBuf,
}

impl Mesa {
    /// The driver in `target/mesa`, fetched if need be, or why it cannot be had.
    pub(crate) fn ensure(root: &Path) -> Result<Self, String> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err("is taken from Debian's packages for x86-64".to_owned());
        }
        let mesa = Self { dir: root.join("target/mesa") };
        if !mesa.description().is_file() {
            mesa.fetch().ok_or("the Debian packages of Mesa 26 could not be fetched")?;
        }
        Ok(mesa)
    }

    /// What runs a program with the driver's libraries: their loader, which is given the program.
    pub(crate) fn loader(&self) -> [String; 3] {
        let libraries = self.dir.join(LIBRARIES);
        let loader = libraries.join("ld-linux-x86-64.so.2");
        [
            loader.to_string_lossy().into_owned(),
            "--library-path".to_owned(),
            libraries.to_string_lossy().into_owned(),
        ]
    }

    /// Has Vulkan's loader take the driver.
    pub(crate) fn choose(&self, command: &mut Command) {
        command.env("VK_DRIVER_FILES", self.description()).env("NODEVICE_SELECT", "1");
    }

    /// What Vulkan's loader reads; written last.
    fn description(&self) -> PathBuf {
        self.dir.join("lavapipe.json")
    }

    /// Packages with all they need, down to the C library, as apt finds them for a machine that has nothing.
    fn fetch(&self) -> Option<()> {
        if !Path::new(KEYRING).is_file() {
            return None;
        }
        let dir = &self.dir;
        let mirror = mirror(dir)?;
        let _ = std::fs::remove_dir_all(dir);
        for folder in ["lists/partial", "archives/partial", "root"] {
            std::fs::create_dir_all(dir.join(folder)).ok()?;
        }
        std::fs::write(dir.join("status"), "").ok()?;
        let sources = ["", "-backports"]
            .map(|part| format!("deb [signed-by={KEYRING}] {mirror} {SUITE}{part} main\n"));
        std::fs::write(dir.join("sources.list"), sources.concat()).ok()?;
        let apt = |args: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(["-qq", "-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root"]);
            command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "Dir::Cache::pkgcache="]);
            command.args(["-o", "Dir::Cache::srcpkgcache="]);
            let ours = [
                ("Dir::Etc::sourcelist", "sources.list"),
                ("Dir::State::status", "status"),
                ("Dir::State::lists", "lists"),
                ("Dir::Cache::archives", "archives"),
            ];
            for (key, name) in ours {
                command.arg("-o").arg(format!("{key}={}", dir.join(name).display()));
            }
            run(dir, command.args(args)).is_ok_and(|end| end.ok()).then_some(())
        };
        apt(&["update"])?;
        let backports = format!("{SUITE}-backports");
        let packages = ["mesa-vulkan-drivers", "libvulkan1"];
        let install = ["install", "--yes", "--download-only", "--no-install-recommends", "-t"];
        apt(&[&install[..], &[&backports], &packages].concat())?;
        for entry in std::fs::read_dir(dir.join("archives")).ok()? {
            let package = entry.ok()?.path();
            if package.extension().is_some_and(|end| end == "deb") {
                let mut unpack = Command::new("dpkg-deb");
                unpack.arg("-x").arg(&package).arg(dir.join("root"));
                unpack.status().ok()?.success().then_some(())?;
            }
        }
        let _ = std::fs::remove_dir_all(dir.join("archives"));
        let driver = dir.join(LIBRARIES).join("libvulkan_lvp.so");
        let icd = format!(
            r#"{{"file_format_version": "1.0.0", "ICD": {{"library_path": "{}", "api_version": "1.4.0"}}}}"#,
            driver.is_file().then(|| driver.display())?
        );
        std::fs::write(self.description(), icd).ok()
    }
}

/// Where this machine has its Debian packages from.
fn mirror(dir: &Path) -> Option<String> {
    let main = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"];
    let ask = || {
        let all =
            answer("apt-get", &[&["indextargets", "--format", "$(REPO_URI)"], &main[..]].concat())?;
        all.lines().next().map(str::to_owned)
    };
    // A machine whose lists were never fetched does not know.
    ask().or_else(|| {
        std::fs::create_dir_all(dir).ok()?;
        run(dir, Command::new("apt-get").args(["-qq", "update"]))
            .is_ok_and(|end| end.ok())
            .then_some(())?;
        ask()
    })
}
