//! Faults of the Kubernetes API server that the replicas follow. Each ends by itself with the strike; what the server
//! needs to start again, or the replicas to find it again, comes on top.

use super::{Hit, Kind, Needs, Sort};

fn hit(id: u64) -> Hit {
    Hit { places: Vec::new(), told: String::from("the API server"), id }
}

/// Kills the API server; its etcd keeps what it had acknowledged.
pub(super) const KILL: Kind = Kind {
    name: "api-server-kill",
    about: "kill -9 of the Kubernetes API server",
    sort: Sort::Kubernetes,
    needs: Needs::KUBERNETES,
    begin: |cluster, id, _| {
        Box::pin(async move {
            cluster.api_server()?.kill()?;
            Ok(hit(id))
        })
    },
    end: |cluster, _| Box::pin(async move { cluster.api_server()?.heal() }),
};

/// Stops the API server, which keeps its connections.
pub(super) const PAUSE: Kind = Kind {
    name: "api-server-pause",
    about: "SIGSTOP of the Kubernetes API server; SIGCONT later",
    begin: |cluster, id, _| {
        Box::pin(async move {
            let server = cluster.api_server()?;
            // It may have been killed a moment ago, and be about to start.
            server.heal()?;
            server.pause()?;
            Ok(hit(id))
        })
    },
    ..KILL
};

/// Cuts all replicas off from the API server, where objects change all the same.
pub(super) const CUT: Kind = Kind {
    name: "api-server-cut",
    about: "no replica reaches the Kubernetes API server, whose objects go on changing",
    begin: |cluster, id, _| {
        Box::pin(async move {
            cluster.api_server()?.cut();
            Ok(hit(id))
        })
    },
    ..KILL
};
