//! Which APIs the server has, where versions of Kubernetes differ.

use kube::Client;

use super::Trouble;

/// Group and version of EndpointSlices (Kubernetes 1.21 and later).
const SLICES: &str = "discovery.k8s.io/v1";

/// Whether the server has EndpointSlices `v1`; if not, Endpoints take their place.
pub(super) async fn has_slices(client: &Client) -> Result<bool, Trouble> {
    match client.list_api_group_resources(SLICES).await {
        Ok(found) => Ok(found.resources.iter().any(|resource| resource.name == "endpointslices")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Trouble::request("cannot ask the API server for its versions", &error)),
    }
}
