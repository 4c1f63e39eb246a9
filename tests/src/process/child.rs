//! One process and what it writes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Lines of a process's output that a failing test shows.
const SHOWN_LINES: usize = 30;

/// A process whose output goes to files. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid_fd: OwnedFd,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to files in `dir`.
    pub fn spawn(command: Command, dir: &Path) -> Process {
        Process::spawn_to(command, dir, None)
    }

    /// The same with another standard error, which [`Process::err`] does not show.
    pub fn spawn_to(mut command: Command, dir: &Path, err_to: Option<Stdio>) -> Process {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", program.to_string_lossy());
        let (out, err) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let file = |path: &Path| File::create(path).expect("a file for the output");
        let err_to = err_to.unwrap_or_else(|| file(&err).into());
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(err_to);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = Pid::from_child(&child);
        let pid_fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("a child's pid");
        Process { name, child, pid_fd, out, err }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Number of the thread with this name, of 15 bytes at most.
    pub fn thread(&self, name: &str) -> Pid {
        let threads = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let found = std::fs::read_dir(threads).expect("threads").find_map(|entry| {
            let entry = entry.expect("a thread");
            let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            (comm.trim_end() == name).then(|| entry.file_name().into_string().expect("a number"))
        });
        let number = found.unwrap_or_else(|| panic!("no thread {name}"));
        Pid::from_raw(number.parse().expect("a number")).expect("not 0")
    }

    /// Waits until it has ended or the time is over. True: ended.
    pub fn wait_end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut [PollFd::new(&self.pid_fd, PollFlags::IN)], Some(&wait))
            {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("waiting for {}: {errno}", self.name),
            }
        }
    }

    /// Its exit status; fails unless it ends in time.
    pub fn end(&mut self, limit: Duration) -> ExitStatus {
        assert!(self.wait_end(limit), "{} still runs after {limit:?}\n{}", self.name, self.shown());
        self.child.wait().expect("a child can be waited for")
    }

    /// Its exit code; fails unless it exits in time and by itself.
    pub fn exit_code(&mut self, limit: Duration) -> i32 {
        let status = self.end(limit);
        let by = status.signal();
        status.code().unwrap_or_else(|| panic!("{}: signal {by:?}\n{}", self.name, self.shown()))
    }

    /// Fails unless it ends with exit code 0 in time.
    pub fn succeed(&mut self, limit: Duration) {
        let code = self.exit_code(limit);
        assert_eq!(code, 0, "exit code of {}\n{}", self.name, self.shown());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.pid_fd, signal).expect("a child can be signalled");
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// Stops it and waits until none of its threads runs any more: the signal alone only begins
    /// that.
    pub fn stop(&self, limit: Duration) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", Pid::as_raw_nonzero(self.pid()));
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat"));
            // The state is behind the name, which is in parentheses.
            let stat = stat.expect("a thread that stays");
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        };
        self.until("its threads have stopped", limit, || {
            let mut tasks = std::fs::read_dir(&tasks).expect("the process is there");
            tasks.all(is_stopped).then_some(())
        });
    }

    /// What it has written to standard output.
    pub fn out(&self) -> String {
        text(&self.out)
    }

    /// What it has written to standard error.
    pub fn err(&self) -> String {
        text(&self.err)
    }

    /// The end of its output, for messages.
    pub fn shown(&self) -> String {
        let mut shown = String::new();
        for (what, text) in [("stdout", self.out()), ("stderr", self.err())] {
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            shown += &format!("--- {what} of {}\n{}\n", self.name, last.join("\n"));
        }
        shown
    }

    /// Looks again and again until `look` finds something; fails when the process ends or the time
    /// is over before that.
    pub fn until<T>(&self, what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}\n{}", self.shown());
            assert!(!self.wait_end(LOOK_INTERVAL), "ended before: {what}\n{}", self.shown());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.shown());
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Looks again and again, giving way in between, until `look` finds something; fails when the time
/// is over before that.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::yield_now();
    }
}
