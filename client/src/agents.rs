//! Calls made by agents, and operators' queries about agents.

use hyper::Method;
use romana_api::Changed;
use romana_api::host::{HeartbeatBody, ReportBody};
use romana_api::pod::PodSegment;
use romana_api::vip::VipRenewalBody;
use romana_statemachine::agent::{Heartbeat, HeartbeatAge, PodRef};
use romana_statemachine::command::{ClaimReserve, EnrolAgent, ReportAttachments};
use romana_statemachine::finding::Finding;
use romana_statemachine::lease::{VipAnswer, VipRenewal};
use romana_statemachine::name::{HostName, InstanceId};
use romana_statemachine::{Command, Topic};

use crate::call::parse;
use crate::client::Client;
use crate::error::Error;
use crate::follow::Snapshot;
use crate::model::{Done, Page};
use crate::query::Query;
use crate::transport::Ask;

impl Client {
    /// The state (or some topics of it) as a host needs it: without addresses of other hosts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn snapshot_for(
        &self,
        topics: &[Topic],
        host: Option<&HostName>,
    ) -> Result<Snapshot, Error> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
        let names = (!names.is_empty()).then(|| names.join(","));
        let query = Query::new("/v1/snapshot").with("topics", names);
        parse(&self.core().fetch(&Ask::get(query.with("host", host).build())).await?)
    }

    /// Enrols an agent as the one that acts for its host.
    ///
    /// # Errors
    /// [`Error`]; refused with code `HostHasAgent`: another agent is enrolled.
    pub async fn enrol_agent(&self, enrol: EnrolAgent) -> Result<Done, Error> {
        self.submit(&Command::EnrolAgent(enrol)).await
    }

    /// Sends a heartbeat. `agent`: its instance and machine name, if it is enrolled or was refused; a cluster
    /// before version 4 does not support them.
    ///
    /// # Errors
    /// [`Error`]; refused with code `HostHasAgent`: another agent is enrolled.
    pub async fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
        agent: Option<(&InstanceId, &str)>,
    ) -> Result<(), Error> {
        let Heartbeat { host, version, revision, applied, problems } = heartbeat;
        let path = Query::new("/v1/hosts").segment(host).segment("heartbeat").build();
        let body = HeartbeatBody {
            version: version.clone(),
            revision: *revision,
            applied: *applied,
            problems: problems.clone(),
            instance: agent.map(|(instance, _)| instance.clone()),
            machine: agent.map(|(_, machine)| machine.to_owned()).unwrap_or_default(),
        };
        self.send::<Changed>(Method::POST, path, Some(&body), true).await.map(|_| ())
    }

    /// Renews a host's leases of virtual IPs. The grants in the answer count from before this call: if one replica does
    /// not answer, another one is asked.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn renew_vips(&self, renewal: VipRenewal) -> Result<VipAnswer, Error> {
        let VipRenewal { host, instance, run, sequence, held, subnets } = renewal;
        let path = Query::new("/v1/hosts").segment(host).segment("vips").build();
        let body = VipRenewalBody { instance, run, sequence, held, subnets };
        self.send(Method::POST, path, Some(&body), true).await
    }

    /// The last heartbeat of each host's agent.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn heartbeats(&self) -> Result<Page<HeartbeatAge>, Error> {
        self.get("/v1/heartbeats").await
    }

    /// Reports the attachments of a host, with addresses where they are known.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn report_attachments(&self, report: ReportAttachments) -> Result<Done, Error> {
        let ReportAttachments { host, revision, at, running, kept } = report;
        let path = Query::new("/v1/hosts").segment(host).segment("report").build();
        let body = ReportBody { revision, at: Some(at), running: kept, attached: Some(running) };
        let Changed { changed, revision } =
            self.send(Method::POST, path, Some(&body), true).await?;
        Ok(Done { revision, changed, allocation: None })
    }

    /// Differences between the log and the hosts' reports.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ipam_check(&self) -> Result<Page<Finding>, Error> {
        self.get("/v1/ipam/check").await
    }

    /// The segment in which a Kubernetes pod is to get its address.
    ///
    /// # Errors
    /// [`Error`]; refused with code `PathNotFound` by a control plane that does not answer this yet.
    pub async fn pod_segment(&self, pod: &PodRef) -> Result<PodSegment, Error> {
        let path = Query::new("/v1/pods").segment(&pod.namespace).segment(&pod.name);
        let uid = Some(&pod.uid).filter(|uid| !uid.is_empty());
        self.get(path.segment("segment").with("uid", uid).build()).await
    }

    /// Renames a reserved address to the name it is used under.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn claim_reserve(&self, claim: ClaimReserve) -> Result<Done, Error> {
        self.submit(&Command::ClaimReserve(claim)).await
    }
}
