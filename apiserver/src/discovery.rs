//! Which APIs the server has, where versions of Kubernetes differ.

use k8s_openapi::Resource;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;

use crate::Trouble;

/// Whether the server has EndpointSlices `v1` (Kubernetes 1.21 and later); if not, Endpoints take their place.
///
/// # Errors
/// The server does not answer, or refuses to.
pub async fn has_slices(client: &Client) -> Result<bool, Trouble> {
    let name = EndpointSlice::URL_PATH_SEGMENT;
    match client.list_api_group_resources(EndpointSlice::API_VERSION).await {
        Ok(found) => Ok(found.resources.iter().any(|resource| resource.name == name)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(Trouble::request("cannot ask the API server for its versions", &error)),
    }
}
