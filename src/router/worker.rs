//! A thread that moves packets: read from one device, decide, rewrite in place, write to another one.
//!
//! Runs to completion, without a queue between devices. Where the time goes is the kernel: the receiver's transport
//! runs inside of our `write`, copies and wake-ups follow, and the code here is a few percent. So what is saved are
//! system calls and wake-ups. Epoll is edge-triggered and each device is read until it is empty or has had its turn.
//! Before the thread sleeps it looks again for some tens of microseconds, and yields between looks: whoever got the
//! last packet is about to answer, and being awake then saves a wake-up per packet (measured: a third more new
//! connections and half the latency), while a busy machine gives the time to the programs that talk. A silent router
//! sleeps without a timer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use tracing::{error, warn};

use super::PortId;
use super::dataplane::Shared;
use super::flow::Millis;
use super::pipeline::Verdict;
use super::train::Train;
use super::wire::PacketBuf;
use crate::sys::tun::Tun;

/// Packets that one device may send before the next one has its turn.
const BURST: usize = 32;
/// Turns of ready devices before epoll is asked for further ones.
const TURNS: usize = 64;
/// Turns that a device gets at its end: more than its queue holds, and an end to what never ends.
const LAST_TURNS: usize = 64;
const WAKE: u64 = u64::MAX;
/// Upkeep is done in batches: once a second is soon enough for what is idle anyway.
const UPKEEP_SLACK_MS: u64 = 1000;
/// Looks at the devices between two looks at upkeep, while the thread finds no time to sleep.
const BUSY_LOOKS: u32 = 1024;

pub(super) type Done = SyncSender<io::Result<()>>;

/// What the handle asks of a thread. `done` is answered when the thread has done it.
pub(super) enum Command {
    Attach {
        id: PortId,
        device: Arc<Tun>,
        read: bool,
        done: Done,
    },
    /// Forward what a device has sent so far.
    Drain {
        id: PortId,
        done: Done,
    },
    Detach {
        id: PortId,
        done: Done,
    },
    Stop,
}

/// The handle's side of a thread.
pub(super) struct Worker {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

struct Mailbox {
    /// `None` once the thread has ended: nobody would answer.
    commands: Mutex<Option<VecDeque<Command>>>,
    wake: OwnedFd,
}

/// Closes the mailbox however the thread ends, so that whoever waits for an answer learns that none will come.
struct CloseOnDrop(Arc<Mailbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        *self.0.commands.lock() = None;
    }
}

impl Mailbox {
    fn post(&self, command: Command) -> io::Result<()> {
        match &mut *self.commands.lock() {
            Some(commands) => commands.push_back(command),
            None => return Err(ended()),
        }
        rustix::io::write(&self.wake, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Worker {
    pub(super) fn start(index: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let mailbox = Arc::new(Mailbox { commands: Mutex::new(Some(VecDeque::new())), wake });
        let mut state = State {
            shared: Arc::clone(shared),
            mailbox: Arc::clone(&mailbox),
            epoll,
            devices: FxHashMap::default(),
            ready: VecDeque::new(),
            buf: PacketBuf::new(),
            train: Train::new(),
        };
        let closing = CloseOnDrop(Arc::clone(&mailbox));
        let thread = std::thread::Builder::new().name(format!("router-{index}")).spawn(move || {
            let _closing = closing;
            state.run();
        })?;
        Ok(Self { mailbox, thread: Some(thread) })
    }

    /// Whether the thread runs.
    pub(super) fn is_alive(&self) -> bool {
        self.mailbox.commands.lock().is_some()
    }

    /// Posts a command and waits until it is done.
    pub(super) fn command(&self, make: impl FnOnce(Done) -> Command) -> io::Result<()> {
        let (done, answer) = sync_channel(1);
        self.mailbox.post(make(done))?;
        answer.recv().map_err(|_| ended())?
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the router thread has ended")
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when the thread has ended already, and then there is nothing to wait for.
        let _ = self.mailbox.post(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by its own hook already.
            let _ = thread.join();
        }
    }
}

/// A device as this thread knows it.
struct Device {
    tun: Arc<Tun>,
    /// This thread reads it; otherwise it only writes to it.
    read: bool,
    queued: bool,
}

struct State {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    epoll: OwnedFd,
    devices: FxHashMap<PortId, Device>,
    /// Devices that may have packets.
    ready: VecDeque<PortId>,
    buf: PacketBuf,
    train: Train,
}

impl State {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(256);
        let mut looks = 0u32;
        loop {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(BUSY_LOOKS) {
                self.upkeep();
            }
            for _ in 0..TURNS {
                let Some(id) = self.ready.pop_front() else { break };
                self.serve(id);
            }
            events.clear();
            if let Err(e) = self.wait(&mut events) {
                error!(error = %io::Error::from(e), "cannot wait for packets, the router thread ends");
                return;
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        if !self.obey() {
                            return;
                        }
                    }
                    port => self.enqueue(PortId(u32::try_from(port).unwrap_or_default())),
                }
            }
        }
    }

    /// Fills `events`; comes back empty-handed only for upkeep or while devices are ready still.
    fn wait(&self, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
        // Under load epoll is asked now and then, so that neither new devices nor commands wait for silence.
        self.poll(events, Some(&Timespec::default()))?;
        if !events.is_empty() || !self.ready.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < self.shared.linger {
            std::thread::yield_now();
            self.poll(events, Some(&Timespec::default()))?;
            if !events.is_empty() {
                return Ok(());
            }
        }
        self.poll(events, self.upkeep().as_ref())
    }

    fn poll(&self, events: &mut Vec<epoll::Event>, timeout: Option<&Timespec>) -> Result<(), Errno> {
        match epoll::wait(&self.epoll, spare_capacity(events), timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn enqueue(&mut self, id: PortId) {
        if let Some(device) = self.devices.get_mut(&id)
            && device.read
            && !device.queued
        {
            device.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Gives a device its turn, and another one later if it has more packets.
    fn serve(&mut self, id: PortId) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.queued = false;
            if self.burst(id) {
                self.enqueue(id);
            }
        }
    }

    /// The last packets of a Pod's processes are the ends of their connections. Without them peers would wait for ever.
    fn drain(&mut self, id: PortId) {
        if self.devices.get(&id).is_some_and(|device| device.read) {
            let _ = (0..LAST_TURNS).all(|_| self.burst(id));
        }
    }

    /// Gives a device one turn, and lets leave what it has sent; `true` when there may be more.
    fn burst(&mut self, id: PortId) -> bool {
        let more = self.read(id);
        self.depart();
        more
    }

    /// Reads a device until it is empty or its turn is over; `true` when there may be more.
    fn read(&mut self, id: PortId) -> bool {
        let Some(device) = self.devices.get(&id) else { return false };
        let tun = Arc::clone(&device.tun);
        let now = self.shared.now();
        for _ in 0..BURST {
            match rustix::io::read(&*tun, self.buf.slot()) {
                Ok(len) => self.buf.filled(len),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return false,
                Err(e) => {
                    // The device is down or gone; its owner detaches it.
                    warn!(port = id.0, error = %io::Error::from(e), "cannot read a device");
                    return false;
                }
            }
            let verdict = self.shared.pipeline.lock().process(&mut self.buf, id, now);
            let to = match verdict {
                Verdict::Forward(to) => to,
                Verdict::Reply(_) => id,
                Verdict::Drop(_) => continue,
                Verdict::Hold(destination) => {
                    self.shared.hold(id, destination, &self.buf);
                    continue;
                }
            };
            if self.train.join(&self.buf, to) {
                continue;
            }
            self.depart();
            if !(tun.takes_datagrams() && self.train.start(&mut self.buf, to)) {
                self.shared.left(1, write(&self.devices, to, &self.buf));
            }
        }
        true
    }

    /// Writes the train that waits.
    fn depart(&mut self) {
        if let Some((to, frame, count)) = self.train.leave() {
            self.shared.left(count, write(&self.devices, to, frame));
        }
    }

    /// Does what is due and says how long to sleep at most.
    fn upkeep(&self) -> Option<Timespec> {
        let mut pipeline = self.shared.pipeline.lock();
        let due = pipeline.next_maintenance()?;
        let now = self.shared.now();
        let sleep = if due <= now {
            pipeline.maintain(now);
            rest(pipeline.next_maintenance()?, now)
        } else {
            rest(due, now)
        };
        Some(Timespec {
            tv_sec: i64::try_from(sleep / 1000).ok()?,
            tv_nsec: i64::try_from(sleep % 1000).ok()? * 1_000_000,
        })
    }

    /// Carries out posted commands; `false` when the thread is to end.
    fn obey(&mut self) -> bool {
        let mut count = [0; 8];
        // Empty is fine: the commands may have been taken with an earlier wake-up.
        let _ = rustix::io::read(&self.mailbox.wake, &mut count);
        loop {
            let Some(command) = self.mailbox.commands.lock().as_mut().and_then(VecDeque::pop_front) else {
                return true;
            };
            match command {
                Command::Attach { id, device, read, done } => {
                    let _ = done.send(self.attach(id, device, read));
                }
                Command::Drain { id, done } => {
                    self.drain(id);
                    let _ = done.send(Ok(()));
                }
                Command::Detach { id, done } => {
                    self.detach(id);
                    let _ = done.send(Ok(()));
                }
                Command::Stop => return false,
            }
        }
    }

    fn attach(&mut self, id: PortId, tun: Arc<Tun>, read: bool) -> io::Result<()> {
        if read {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &*tun, epoll::EventData::new_u64(id.0.into()), flags)?;
        }
        self.devices.insert(id, Device { tun, read, queued: false });
        Ok(())
    }

    fn detach(&mut self, id: PortId) {
        if let Some(device) = self.devices.remove(&id)
            && device.read
            && let Err(e) = epoll::delete(&self.epoll, &*device.tun)
        {
            warn!(port = id.0, error = %io::Error::from(e), "cannot stop polling a device");
        }
    }
}

/// Writes a frame; `false` when its device is gone or does not take it.
fn write(devices: &FxHashMap<PortId, Device>, to: PortId, frame: &PacketBuf) -> bool {
    devices.get(&to).is_some_and(|device| rustix::io::write(&*device.tun, frame.frame()).is_ok())
}

/// How long to sleep before upkeep that is due then: not at all when a call of it has left some undone.
fn rest(due: Millis, now: Millis) -> Millis {
    if due <= now { 0 } else { (due - now).max(UPKEEP_SLACK_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upkeep_that_is_left_undone_goes_on_at_once_and_later_one_in_batches() {
        assert_eq!([0, 5_000, 5_001, 9_000].map(|due| rest(due, 5_000)), [0, 0, UPKEEP_SLACK_MS, 4_000]);
    }
}
