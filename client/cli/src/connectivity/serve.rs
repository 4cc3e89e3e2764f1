//! `romana connectivity serve`: an endpoint on this host for the tests of other hosts.

use serde::Serialize;
use serde_json::json;

use super::namespaces::policy;
use super::report::{Report, Row};
use super::setup::{Local, SERVED};
use super::{show, stopped_by};
use crate::context::Context;
use crate::failure::Failure;
use crate::signals::interrupted;

/// What is served.
#[derive(Debug, Serialize)]
struct Serving {
    host: String,
    tenant: String,
    addresses: Vec<String>,
}

/// Makes the endpoint, says where it is, and removes it when it is stopped.
pub(super) async fn run(ctx: &Context, local: &Local) -> Result<(), Failure> {
    let (failed, stopped) = tokio::select! {
        result = serve(ctx, local) => (result, None),
        name = interrupted("SIGINT") => (Ok(()), Some(name)),
    };
    let left = local.remove(ctx).await;
    match (failed, stopped) {
        (Err(row), _) => show(ctx, Report { items: [vec![*row], left].concat() }),
        (Ok(()), Some(name)) if !left.is_empty() => Err(stopped_by(name, &Report { items: left })),
        (Ok(()), _) => Ok(()),
    }
}

/// Ends only if it cannot serve.
async fn serve(ctx: &Context, local: &Local) -> Result<(), Box<Row>> {
    let (this, _) = local.this_host(ctx).await?;
    let (plugin, _) = local.plugin()?;
    let tenant = local.tenant();
    // Tests of all hosts connect to the open port.
    let document = policy(&tenant, &tenant, SERVED, &json!([{"peer": "any"}]));
    local.set_policy(ctx, &document).await?;
    let (_, ips) = local.attach(&plugin, SERVED).await.map_err(|why| {
        let row = Row::about("attach", SERVED, "an endpoint can be made");
        Box::new(row.failed(why, "romana-agent status, on this host"))
    })?;
    let serving = Serving {
        host: this.host.name.to_string(),
        tenant,
        addresses: ips.iter().map(ToString::to_string).collect(),
    };
    let line = || {
        let at = serving.addresses.join(", ");
        format!(
            "serving at {at} on {}: run romana connectivity test on another host; Ctrl-C ends it",
            serving.host
        )
    };
    // Nobody may be reading; it serves all the same.
    _ = ctx.out.element(&serving, line);
    std::future::pending().await
}
