//! Starting and watching container processes.
//!
//! One long-lived thread starts them all: PR_SET_PDEATHSIG fires at the end of the *thread* that started a process,
//! so a pooled or short-lived thread would take its containers with it. In return no container outlives this process,
//! whichever way it ends. A process is watched through its pidfd, so a process id that is used again is never hit.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What is to be started: this very program again, with other arguments.
#[derive(Debug)]
pub struct Launch {
    /// The arguments after the program's name.
    pub args: Vec<CString>,
    /// Standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Stay open in the new program, under the same numbers.
    pub inherit: Vec<OwnedFd>,
    pub place: Place,
}

/// The process-id namespace of a new process.
#[derive(Debug)]
pub enum Place {
    /// Process 1 of a new one, with a new mount namespace.
    New,
    /// That of the process with this pidfd, with a new mount namespace.
    In(Arc<OwnedFd>),
    /// Beside the process with this pidfd.
    With(Arc<OwnedFd>),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The exit code as shells and container runtimes count it: 128 and the signal's number for a killed process.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A started process. It is killed and reaped when the last handle is dropped before somebody has waited for it.
///
/// The reaping is not only tidiness: the first process of a container can't end before every process that was put
/// beside it is reaped, which only their parent can do.
#[derive(Clone, Debug)]
pub struct Child {
    process: Arc<Process>,
}

#[derive(Debug)]
struct Process {
    pidfd: AsyncFd<Arc<OwnedFd>>,
    reaped: AtomicBool,
}

impl Child {
    /// To be called inside a tokio runtime.
    fn new(pidfd: Arc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: the `Arc` keeps the descriptor open, under the same number, for as long as the `AsyncFd` has it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let process = Process { pidfd: pidfd.map_err(io::Error::from)?, reaped: AtomicBool::new(false) };
        Ok(Self { process: Arc::new(process) })
    }

    /// A handle for signals and for starting processes beside this one.
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(self.process.pidfd.get_ref())
    }

    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(self.process.pidfd.get_ref(), rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Waits for the end and reaps. Cancel-safe; to be called by one task only.
    ///
    /// # Errors
    /// When the process was reaped already.
    pub async fn wait(&self) -> io::Result<Exit> {
        let pidfd = &self.process.pidfd;
        loop {
            let mut ready = pidfd.readable().await?;
            let id = WaitId::PidFd(pidfd.get_ref().as_fd());
            match rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
                Some(status) => {
                    self.process.reaped.store(true, Ordering::Relaxed);
                    return Ok(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
                    });
                }
                None => ready.clear_ready(),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if *self.reaped.get_mut() {
            return;
        }
        let own = self.pidfd.get_ref();
        // Under a number of its own: this one stays registered with the runtime until the drop is over, and the task
        // may begin before.
        let pidfd = own.try_clone().map_or_else(|_| Arc::clone(own), Arc::new);
        // Where there is no runtime any more, this whole process is about to end, and its children with it.
        let _ = signal(&*pidfd, Signal::KILL);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Ok(child) = Child::new(pidfd) {
                    let _ = child.wait().await;
                    child.process.reaped.store(true, Ordering::Relaxed);
                }
            });
        }
    }
}

/// Sends a signal; an ended process is no error.
///
/// # Errors
/// The kernel's.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The thread that starts processes. It ends, and every process that it started with it, when this is dropped.
#[derive(Debug)]
pub struct Spawner {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    launch: Launch,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// # Errors
    /// When the thread can't be started.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("spawner".to_owned()).stack_size(256 * 1024).spawn(move || {
            for Job { launch, runtime, reply } in queue {
                let _context = runtime.enter();
                // A receiver that is gone drops the child, which kills and reaps it.
                let _ = reply.send(start(&launch).and_then(|pidfd| Child::new(Arc::new(pidfd))));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a process. Its program reports by its own means when it fails later than the start itself.
    ///
    /// # Errors
    /// `PermissionDenied` where namespaces are forbidden, `WouldBlock` at the limit of processes, `NotFound` when the
    /// process to be beside of has ended.
    pub async fn spawn(&self, launch: Launch) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.jobs.send(Job { launch, runtime: Handle::current(), reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn start(launch: &Launch) -> io::Result<OwnedFd> {
    match &launch.place {
        Place::New => clone_and_exec(launch, libc::CLONE_NEWPID | libc::CLONE_NEWNS, libc::SIGKILL),
        // Where a thread's children begin can't be set back to the machine's own process ids without being root of
        // the machine, so it is changed for a thread that ends at once. Such a process needs no death signal: it ends
        // with its neighbour's namespace.
        Place::With(neighbour) => beside(neighbour, launch, 0),
        Place::In(neighbour) => beside(neighbour, launch, libc::CLONE_NEWNS),
    }
}

fn beside(neighbour: &OwnedFd, launch: &Launch, flags: libc::c_int) -> io::Result<OwnedFd> {
    thread::scope(|scope| {
        let beside = thread::Builder::new().name("exec".to_owned()).stack_size(256 * 1024);
        let beside = beside.spawn_scoped(scope, || {
            move_into_thread_name_spaces(neighbour.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
            clone_and_exec(launch, flags, 0)
        })?;
        beside.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread failed")))
    })
}

/// Forks with `flags` and executes this program again in the child, which gets `death_signal` when this thread ends.
fn clone_and_exec(launch: &Launch, flags: libc::c_int, death_signal: libc::c_int) -> io::Result<OwnedFd> {
    let name = CString::from(c"vipyard");
    let mut argv: Vec<*const c_char> = vec![name.as_ptr()];
    argv.extend(launch.args.iter().map(|arg| arg.as_ptr()));
    argv.push(std::ptr::null());
    let envp: [*const c_char; 1] = [std::ptr::null()];
    let inherit: Vec<RawFd> = launch.inherit.iter().map(AsRawFd::as_raw_fd).collect();
    let stdio = launch.stdio.each_ref().map(AsRawFd::as_raw_fd);

    let mut pidfd: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    let none: libc::c_long = 0;
    // SAFETY: without CLONE_VM the child has a copy of the memory and goes on with the same stack, as after fork.
    // CLONE_PIDFD makes the kernel store a descriptor into `pidfd`, which lives across the call; the last two
    // arguments are unused with these flags, so that their order, which differs by architecture, doesn't matter.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags), none, std::ptr::from_mut(&mut pidfd), none, none)
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: this is the child of a clone; the vectors were made before it.
            unsafe { exec_child(stdio, &inherit, argv.as_ptr(), envp.as_ptr(), death_signal) }
        }
        // SAFETY: the kernel has just made this descriptor for us and nothing else owns it.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// The child's way to its program. Only system calls: another thread may have held any lock, the allocator's
/// included, at the moment of the clone.
///
/// # Safety
/// To be called in a new child process only. `argv` and `envp` are null-terminated arrays of C strings.
unsafe fn exec_child(
    stdio: [RawFd; 3],
    inherit: &[RawFd],
    argv: *const *const c_char,
    envp: *const *const c_char,
    death_signal: libc::c_int,
) -> ! {
    // SAFETY: plain system calls on numbers that the parent holds open; no memory is touched but the arguments.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, death_signal);
        for (target, source) in (0..).zip(stdio) {
            libc::dup2(source, target);
        }
        for fd in inherit {
            libc::fcntl(*fd, libc::F_SETFD, 0);
        }
        libc::execve(c"/proc/self/exe".as_ptr(), argv, envp);
        libc::_exit(127)
    }
}

/// Takes over a descriptor that this process was started with, and hides it from the programs that it executes.
///
/// # Errors
/// `BadFileDescriptor` for a number that is not open.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes its argument by value, and fails for a number that is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, and by the contract of the hidden subcommand it was passed on to be owned here.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Hides every descriptor above standard error from the programs that this process executes.
pub fn hide_descriptors() {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: close_range takes three integers. An old kernel refuses the flag: then what was inherited stays open,
    // and that is nothing but what this program's own starter left.
    unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Gives every signal its usual meaning again, and lets it through. What `nohup` has ignored, say, would else be ignored
/// by all programs that this one becomes. Must be called before any thread starts.
pub fn reset_signals() {
    const SIGNALS: libc::c_long = 64;
    // The kernel's form: SIG_DFL, no flags, nothing blocked meanwhile. libc's own call refuses the two signals that it
    // keeps for itself, of which its posix_spawn leaves one ignored.
    let default = [0_u64; 4];
    let size = SIGNALS / 8;
    for number in 1..=SIGNALS {
        // SAFETY: the array is as long as the structure, is only read, and installs no handler. For SIGKILL and SIGSTOP
        // the call fails and changes nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<u64>(), size) };
    }
    // SAFETY: zeros are the empty set; it is only read.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &std::mem::zeroed(), std::ptr::null_mut()) };
}

/// Has the kernel reap the children of this process, which asks for nobody's end.
pub fn leave_children_to_the_kernel() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Whether the reading end of this pipe is closed.
pub fn reader_gone(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pipe, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
        && fds[0].revents().contains(rustix::event::PollFlags::ERR)
}
