//! smolgate and nginx with the same configuration, except for ports, in the same directory. Both are killed at the end of the
//! test.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The limit for everything that a test waits for, on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// Tue, 14 Nov 2023 22:13:20 GMT, 6553f100 in hexadecimal.
pub(crate) const MODIFIED: Duration = Duration::from_secs(1_700_000_000);

/// The unprivileged user of workers by default.
const UNPRIVILEGED_UID: u32 = 65534;

/// The installed nginx, and the directory of its configuration.
pub(crate) struct Nginx {
    pub(crate) program: PathBuf,
    dir: PathBuf,
}

/// Returns the installed nginx. Without one, nothing is compared, which the screen shows; in CI the test fails.
pub(crate) fn nginx() -> Option<&'static Nginx> {
    static FOUND: OnceLock<Option<Nginx>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let directories = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&directories).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let program = directories.map(|dir| dir.join("nginx")).find(|program| program.is_file())?;
        let output = Command::new(&program).arg("-V").output().ok()?;
        let version = String::from_utf8_lossy(&output.stderr).into_owned();
        let file = version.split_whitespace().find_map(|word| word.strip_prefix("--conf-path="));
        let dir = Path::new(file.unwrap_or("/usr/local/nginx/conf/nginx.conf")).parent()?.to_owned();
        Some(Nginx { program, dir })
    });
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "nginx is not installed");
        // The test runner shows only failed tests what eprintln prints.
        let _ = writeln!(std::io::stderr(), "skipped: nginx is not installed, nothing is compared");
    }
    found.as_ref()
}

/// A directory that is removed at the end of the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("smolgate-compare-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, last modified at [`MODIFIED`].
    pub(crate) fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program.
pub(crate) struct Program {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Program {
    /// Returns the number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both programs.
pub(crate) struct Pair {
    pub(crate) smolgate: Program,
    pub(crate) nginx: Program,
    /// Dropped last.
    _folder: TempDir,
}

/// The configuration around the tested directives, as in the packages of distributions. Temporary files stay in the directory.
const TEMPLATE: &str = "events { worker_connections 4096; }
http {
    client_body_temp_path DIRECTORY/temp; proxy_temp_path DIRECTORY/temp; fastcgi_temp_path DIRECTORY/temp;
    uwsgi_temp_path DIRECTORY/temp; scgi_temp_path DIRECTORY/temp;
    include MIME;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    access_log off;
    CONFIG
}
";

impl Pair {
    /// Starts both with the directives of `http {}`, in which `LISTEN` is the address to listen on, and `DIRECTORY` the directory that
    /// `fill` fills. `None` without nginx.
    pub(crate) fn start(config: &str, fill: impl FnOnce(&TempDir)) -> Option<Self> {
        let installed = nginx()?;
        let dir = TempDir::new();
        fill(&dir);
        let mime = installed.dir.join("mime.types").display().to_string();
        let text = TEMPLATE.replace("CONFIG", config).replace("MIME", &mime);
        let text = text.replace("DIRECTORY", &dir.0.display().to_string());
        let nginx = start(&dir, &installed.program, "nginx", &text, "daemon off; master_process off;");
        let smolgate = start(&dir, Path::new(env!("CARGO_BIN_EXE_smolgate")), "smolgate", &text, "");
        Some(Self { smolgate, nginx, _folder: dir })
    }
}

/// Starts a program and waits until it listens.
fn start(dir: &TempDir, program: &Path, name: &str, text: &str, extra: &str) -> Program {
    // A free port may be taken before the program binds it: then another one is tried.
    for _ in 0..20 {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = dir.path(&format!("{name}.conf"));
        fs::write(&file, text.replace("LISTEN", &addr.to_string())).unwrap();
        let err = fs::File::create(dir.path(&format!("{name}.err"))).unwrap();
        let mut command = Command::new(program);
        command.env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3");
        command.arg("-p").arg(&dir.0).arg("-c").arg(&file);
        command.args(["-e", "stderr", "-g", &format!("pid {name}.pid; {extra}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err);
        if name == "nginx" && is_root() {
            // smolgate drops root by itself; nginx does so only in workers of a master.
            command.uid(UNPRIVILEGED_UID).gid(UNPRIVILEGED_UID);
        }
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while began.elapsed() < TIMEOUT && child.try_wait().unwrap().is_none() {
            if dir.path(&format!("{name}.pid")).exists() && TcpStream::connect(addr).is_ok() {
                return Program { child, addr };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = child.kill();
        let _ = child.wait();
        let stderr = fs::read_to_string(dir.path(&format!("{name}.err"))).unwrap_or_default();
        assert!(stderr.contains("bind()"), "{name} does not start:\n{stderr}");
    }
    panic!("no free port was found");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
