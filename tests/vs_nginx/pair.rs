//! smolgate and nginx side by side: the same file but for the ports, the same folder, both ended with the test.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tue, 14 Nov 2023 22:13:20 GMT, 6553f100 in hexadecimal.
pub(crate) const MODIFIED: Duration = Duration::from_secs(1_700_000_000);

/// The user that root's workers become by default.
const NOBODY: u32 = 65534;

/// nginx, and the folder of its configuration.
pub(crate) struct Nginx {
    pub(crate) program: PathBuf,
    folder: PathBuf,
}

/// The nginx that is installed; without one the test prints a line and is over.
pub(crate) fn nginx() -> Option<&'static Nginx> {
    static FOUND: OnceLock<Option<Nginx>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let program = folders.map(|folder| folder.join("nginx")).find(|program| program.is_file())?;
        let told = Command::new(&program).arg("-V").output().ok()?;
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        let file = told.split_whitespace().find_map(|word| word.strip_prefix("--conf-path="));
        let folder = Path::new(file.unwrap_or("/usr/local/nginx/conf/nginx.conf")).parent()?.to_owned();
        Some(Nginx { program, folder })
    });
    if found.is_none() {
        eprintln!("nginx is not installed: nothing is compared");
    }
    found.as_ref()
}

/// A folder that goes away with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
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

    /// Writes a file, last changed at [`MODIFIED`].
    pub(crate) fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + MODIFIED).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One of the two.
pub(crate) struct Program {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Program {
    /// Descriptors that are open.
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

/// Both.
pub(crate) struct Pair {
    pub(crate) smolgate: Program,
    pub(crate) nginx: Program,
    /// Goes last.
    _folder: Folder,
}

/// What stands around `config`, as distributions have it. nginx may write only where it is told to.
const AROUND: &str = "events { worker_connections 4096; }
http {
    client_body_temp_path FOLDER/temp; proxy_temp_path FOLDER/temp; fastcgi_temp_path FOLDER/temp;
    uwsgi_temp_path FOLDER/temp; scgi_temp_path FOLDER/temp;
    include MIME;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    access_log off;
    CONFIG
}
";

impl Pair {
    /// Starts both with what stands in `http {}`. `LISTEN` stands for the address to listen on, `FOLDER` for the folder
    /// that `fill` fills. `None`: there is no nginx.
    pub(crate) fn start(config: &str, fill: impl FnOnce(&Folder)) -> Option<Self> {
        let installed = nginx()?;
        let folder = Folder::new();
        fill(&folder);
        let mime = installed.folder.join("mime.types").display().to_string();
        let text = AROUND.replace("CONFIG", config).replace("MIME", &mime);
        let text = text.replace("FOLDER", &folder.0.display().to_string());
        let nginx = start(&folder, &installed.program, "nginx", &text, "daemon off; master_process off;");
        let smolgate = start(&folder, Path::new(env!("CARGO_BIN_EXE_smolgate")), "smolgate", &text, "");
        Some(Self { smolgate, nginx, _folder: folder })
    }
}

/// Starts a program and waits until it listens.
fn start(folder: &Folder, program: &Path, name: &str, text: &str, extra: &str) -> Program {
    // A port that was free may be taken again before the program binds it: then another one is tried.
    for _ in 0..20 {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path(&format!("{name}.conf"));
        fs::write(&file, text.replace("LISTEN", &addr.to_string())).unwrap();
        let err = fs::File::create(folder.path(&format!("{name}.err"))).unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(&folder.0).arg("-c").arg(&file);
        command.args(["-e", "stderr", "-g", &format!("pid {name}.pid; {extra}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(err);
        if name == "nginx" && is_root() {
            // smolgate becomes nobody by itself; of nginx only workers of a master do.
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE && child.try_wait().unwrap().is_none() {
            if folder.path(&format!("{name}.pid")).exists() && TcpStream::connect(addr).is_ok() {
                return Program { child, addr };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = child.kill();
        let _ = child.wait();
        let told = fs::read_to_string(folder.path(&format!("{name}.err"))).unwrap_or_default();
        assert!(told.contains("bind()"), "{name} does not start:\n{told}");
    }
    panic!("no free port was found");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
