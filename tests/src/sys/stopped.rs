//! A thread of another process that is kept from running.

use std::io;

use rustix::process::Pid;

/// A thread of a child process that does not run until this is dropped. The process's other threads
/// run on. Only the thread that made this may drop it: that thread is the tracer.
#[derive(Debug)]
pub struct Stopped {
    thread: libc::pid_t,
    /// Neither `Send` nor `Sync`.
    _tracer: std::marker::PhantomData<*const ()>,
}

impl Stopped {
    /// Stops a thread by its number, and returns once the thread stands still.
    pub fn thread(thread: Pid) -> io::Result<Stopped> {
        let thread = thread.as_raw_nonzero().get();
        trace(libc::PTRACE_SEIZE, thread)?;
        let stopped = Stopped { thread, _tracer: std::marker::PhantomData };
        trace(libc::PTRACE_INTERRUPT, thread)?;
        let mut status = 0;
        // SAFETY: `status` is a place for an int, and the thread is traced by this thread.
        if unsafe { libc::waitpid(thread, &mut status, libc::__WALL) } != thread {
            return Err(io::Error::last_os_error());
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A thread that has ended meanwhile can't be let go, and needs no letting go.
        drop(trace(libc::PTRACE_DETACH, self.thread));
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take no memory: the address is unused, and the data is a number, 0.
    match unsafe { libc::ptrace(request, thread, none, none) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
