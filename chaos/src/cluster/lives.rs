//! Operations on replicas: kill, stop, pause, power cut, and recovery.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{ApiServer, Cluster};

impl Cluster {
    /// kill -9.
    ///
    /// # Errors
    /// The replica is down already.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let replica = &mut self.replicas[at];
        if let Some(child) = replica.child.as_mut() {
            // It exited by itself: `crashes` must report that.
            let ended = child.try_wait()?.is_some();
            ensure!(!ended || replica.may_end, "replica {} ended by itself", replica.id);
        }
        replica.signal(Signal::KILL)?;
        replica.paused = false;
        if let Some(mut child) = replica.child.take() {
            child.wait().context("wait for a killed replica")?;
        }
        Ok(())
    }

    /// Stops a replica (SIGTERM) and waits for its exit.
    ///
    /// # Errors
    /// It is down already, or does not stop within 10 s.
    pub async fn stop(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::TERM)?;
        self.wait_exit(at, Duration::from_secs(10)).await.map(|_| ())
    }

    /// SIGSTOP: it keeps its connections but does not answer.
    ///
    /// # Errors
    /// The replica is down.
    pub fn pause(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::STOP)?;
        self.replicas[at].paused = true;
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The replica is down.
    pub fn resume(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::CONT)?;
        self.replicas[at].paused = false;
        Ok(())
    }

    /// Cuts the power of some replicas at the same time: what they had not fsynced is lost.
    ///
    /// # Errors
    /// One is down, was started without the shim, or does not exit.
    pub async fn cut_power(&mut self, which: &[usize]) -> Result<()> {
        ensure!(self.shim.is_some(), "the cluster was started without the shim");
        for &at in which {
            self.replicas[at].signal(Signal::USR2)?;
        }
        for &at in which {
            let status = self.wait_exit(at, Duration::from_secs(5)).await?;
            // A process that has only just started dies of the signal itself: it had nothing to lose.
            let cut = status.code() == Some(9) || status.signal() == Some(Signal::USR2.as_raw());
            if !cut && !self.replicas[at].may_end {
                let id = self.replicas[at].id;
                self.ended.push(format!("replica {id} ended before the cut, {status}"));
            }
        }
        Ok(())
    }

    /// Waits until a replica has exited by itself. Returns its status.
    ///
    /// # Errors
    /// It is down, or does not exit within `patience`.
    pub async fn wait_exit(&mut self, at: usize, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            let replica = &mut self.replicas[at];
            let child = replica.child.as_mut().context("the replica is down")?;
            if let Some(status) = child.try_wait()? {
                replica.child = None;
                return Ok(status);
            }
            ensure!(start.elapsed() < patience, "replica {} does not stop", replica.id);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Replicas that exited by themselves since the last call, with their status: each is a violation.
    pub fn crashes(&mut self) -> Vec<String> {
        let mut crashed = std::mem::take(&mut self.ended);
        for replica in self.replicas.iter_mut().filter(|replica| !replica.may_end) {
            let Some(child) = replica.child.as_mut() else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                let how = status.signal().map_or_else(
                    || format!("status {:?}", status.code()),
                    |signal| format!("signal {signal}"),
                );
                crashed.push(format!("replica {} ended by itself, {how}", replica.id));
                replica.child = None;
            }
        }
        crashed
    }

    /// Sets whether a replica may exit by itself from now on.
    pub fn expect_end(&mut self, at: usize, may_end: bool) {
        self.replicas[at].may_end = may_end;
    }

    /// Records a replica's exit, if it has exited. Returns whether it is down.
    pub fn settle_end(&mut self, at: usize) -> bool {
        let replica = &mut self.replicas[at];
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if replica.child.as_mut().is_some_and(ended) {
            replica.child = None;
        }
        replica.child.is_none()
    }

    /// Brings all replicas back, and the API server.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn heal(&mut self) -> Result<()> {
        self.api_server.as_mut().map_or(Ok(()), ApiServer::heal)?;
        (0..self.replicas.len()).try_for_each(|at| self.revive(at))
    }

    /// Resumes a replica that is paused, starts one that is down.
    ///
    /// # Errors
    /// It does not start.
    pub fn revive(&mut self, at: usize) -> Result<()> {
        if self.replicas[at].paused {
            self.resume(at)?;
        }
        if self.replicas[at].is_up() { Ok(()) } else { self.start_replica(at) }
    }
}
