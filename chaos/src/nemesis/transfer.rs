//! Leadership transfers.

use std::time::Duration;

use hyper::Method;
use rand::RngExt;
use serde_json::json;

use super::{Hit, Kind, Needs, Sort, nobody};
use crate::http;

/// Timeout of the request.
const ASK: Duration = Duration::from_secs(2);

/// Transfers leadership to any member.
pub(super) const TRANSFER: Kind = Kind {
    name: "transfer",
    about: "the leader is asked to hand over to another member",
    sort: Sort::Process,
    needs: Needs::NOTHING,
    begin: |cluster, id, rng| {
        Box::pin(async move {
            let at = rng.random_range(0..cluster.replicas().len());
            if !cluster.replicas()[at].is_running() {
                return Ok(nobody(id));
            }
            let to = cluster.replicas()[at].id;
            let path = "/v1/cluster/transfer";
            let body = json!({"to": to});
            // A refusal is acceptable: the target may be disconnected or lag behind.
            let api = cluster.replicas()[at].api;
            _ = http::once(api, Method::POST, path, Some(&body), ASK).await;
            Ok(Hit { places: vec![at], told: format!("to replica {to}"), id })
        })
    },
    end: |_, _| Box::pin(async { Ok(()) }),
};
