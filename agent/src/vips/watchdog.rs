//! The watchdog: a process of its own that holds the addresses of VIPs, and takes them off when their grant is over.
//!
//! The agent tells it by lines of JSON what to hold until when; only the watchdog adds and renews addresses, so an agent
//! that is stopped and goes on later cannot add one under a grant that is over. It looks at the clock again after each
//! change, as it may have been stopped itself. If the agent hangs, is stopped or killed, the watchdog removes each address
//! at the end of its grant; if it was stopped, too, the lifetime in the kernel ends it ([`super::plan::lifetime`]).
//! A thread of the agent would be stopped with it.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::clock;
use super::frames::announcements;
use super::held_addresses::{HeldAddresses, Order, Report};
use crate::kernel::addresses::{self, Write};
use crate::kernel::announce::Announcer;
use crate::ownership::WATCHDOG_FILE;

/// An order about several thousand addresses is shorter, bytes.
const LINE_MAX: usize = 4 << 20;

/// The watchdog's process.
struct Watchdog {
    addresses: HeldAddresses,
    announcer: io::Result<Announcer>,
    /// Runs by the clock of leases: it also ends if the machine was suspended.
    timer: OwnedFd,
}

/// Runs the watchdog: orders come on standard input, reports go to standard output. After the end of the input it goes on
/// until all grants are over, or until the next run of the agent has a watchdog: that one has the addresses then.
///
/// # Errors
/// The input is not that of an agent, or the kernel refuses a timer.
pub fn run(state_dir: &Path) -> io::Result<()> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
    let (file, own) = (state_dir.join(WATCHDOG_FILE), rand::random::<u64>().to_string());
    // Without the file, the next one renews what this one has removed.
    let named = std::fs::write(&file, &own).is_ok();
    let is_replaced = || named && std::fs::read_to_string(&file).is_ok_and(|last| last != own);
    let announcer = Announcer::open();
    let mut watchdog = Watchdog { addresses: HeldAddresses::default(), announcer, timer };
    let stdin = io::stdin();
    let (mut input, mut open) = (Vec::new(), true);
    while open || watchdog.addresses.next().is_some() {
        if watchdog.wait(open.then(|| stdin.as_fd()))? {
            open = read(&stdin, &mut input)?;
            while let Some(order) = next_order(&mut input)? {
                // This process may have been stopped, and the next one may have given the address up.
                if is_replaced() {
                    return Ok(());
                }
                let report = watchdog.obey(&order);
                tell(&report);
            }
        }
        if !open && is_replaced() {
            return Ok(());
        }
        let mut report = Report::default();
        watchdog.end_what_is_over(&mut report);
        watchdog.announce(&mut report);
        if report != Report::default() {
            tell(&report);
        }
    }
    Ok(())
}

/// Reads what there is. Returns whether more may come.
fn read(stdin: &io::Stdin, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 1 << 16];
    let length = rustix::io::read(stdin, &mut piece[..])?;
    input.extend(&piece[..length]);
    if input.len() > LINE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an order is too long"));
    }
    Ok(length > 0)
}

fn next_order(input: &mut Vec<u8>) -> io::Result<Option<Order>> {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line: Vec<u8> = input.drain(..=end).collect();
    Ok(Some(serde_json::from_slice(&line)?))
}

/// The agent may be gone: then nobody is told.
fn tell(report: &Report) {
    let line = serde_json::to_string(report).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

impl Watchdog {
    /// Waits for input, or until something is due. Returns whether there is input.
    fn wait(&self, input: Option<std::os::fd::BorrowedFd<'_>>) -> io::Result<bool> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm the timer; one nanosecond after the start of the machine is over.
        let next = self.addresses.next().map(|next| next.max(Duration::from_nanos(1)));
        let value = next.map_or(Ok(zero), Timespec::try_from).map_err(io::Error::other)?;
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        let mut waiting = vec![PollFd::new(&self.timer, PollFlags::IN)];
        waiting.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut waiting, None) {
            Ok(_) => Ok(waiting.get(1).is_some_and(|input| !input.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn obey(&mut self, order: &Order) -> Report {
        let mut report = Report { number: order.number, ..Report::default() };
        let writes = self.addresses.take(order, clock::now());
        self.write(&writes, &mut report);
        // This process may have been stopped since it looked at the clock.
        self.end_what_is_over(&mut report);
        self.announce(&mut report);
        report
    }

    fn write(&mut self, writes: &[Write], report: &mut Report) {
        match addresses::write(writes) {
            Ok(outcomes) => self.addresses.written(writes, outcomes, report),
            Err(error) => {
                let ips = writes.iter().map(|write| match write {
                    Write::Add { ip, .. } | Write::Renew { ip, .. } | Write::Remove { ip, .. } => {
                        *ip
                    }
                });
                report.failed.extend(ips.map(|ip| (ip, error.to_string())));
            }
        }
    }

    fn end_what_is_over(&mut self, report: &mut Report) {
        let over = self.addresses.over(clock::now());
        self.write(&over, report);
    }

    fn announce(&mut self, report: &mut Report) {
        for (ip, link, mac) in self.addresses.announce(clock::now()) {
            // This process may have been stopped since.
            if !self.addresses.is_granted(ip, clock::now()) {
                continue;
            }
            let sent =
                self.announcer.as_ref().map_err(io::Error::to_string).and_then(|announcer| {
                    let frames = announcements(ip, mac);
                    let sent = frames.iter().try_for_each(|frame| announcer.send(link, frame));
                    sent.map_err(|error| error.to_string())
                });
            if let Err(why) = sent {
                report.failed.push((ip, format!("cannot announce it: {why}")));
            }
        }
    }
}
