//! Where the API server shows the VIP of a Service, and the note at the Service of what is ours there.

use k8s_openapi::api::core::v1::Service;
use romana_statemachine::name::{SourceUid, VipName};
use serde::{Deserialize, Serialize};

/// The class of Services of type LoadBalancer that get a VIP.
const CLASS: &str = "romana.io/vip";
/// The annotation with the [`Record`].
pub(crate) const ANNOTATION: &str = "romana.io/vip-status";

/// Addresses of one Service, each a VIP of its own.
pub(crate) const ADDRESSES_MAX: usize = 4;

/// Where the VIP of a Service is shown: kube-proxy forwards what arrives at these addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In `spec.externalIPs`, beside the addresses of others: the Service asks by annotation.
    External,
    /// In `status.loadBalancer`: it is a load balancer of class `romana.io/vip`.
    LoadBalancer,
}

impl Shown {
    /// Where the VIP of a Service is shown, if it has one.
    pub(crate) fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let balancer = spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
        let class = spec.and_then(|spec| spec.load_balancer_class.as_deref());
        if balancer && class == Some(CLASS) { Self::LoadBalancer } else { Self::External }
    }
}

/// The VIP that is shown at a Service, if the log has it from its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownVip {
    pub(crate) name: VipName,
    /// The uid of the Service that it belongs to: this one, or another one that shares its address.
    pub(crate) owner: SourceUid,
}

impl ShownVip {
    /// The VIP of a Service itself: `<service>.<namespace>`.
    pub(crate) fn of(service: &Service) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &service.metadata;
        let name = VipName::from(format!("{}.{}", text(&meta.name), text(&meta.namespace)));
        Self { name, owner: text(&meta.uid).into() }
    }

    /// All that the Service may have: the first has its name, further ones a number behind it.
    pub(crate) fn all(&self) -> impl Iterator<Item = Self> + use<> {
        let Self { name, owner } = self.clone();
        (1..=ADDRESSES_MAX).map(move |number| {
            let name = match number {
                1 => name.clone(),
                _ => VipName::from(format!("{name}.{number}")),
            };
            Self { name, owner: owner.clone() }
        })
    }
}

/// What romanad has written into a Service, noted there: only that is taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vip: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "externalIPs")]
    pub(crate) external: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ingress: Vec<String>,
}

impl Record {
    /// The note at a Service. One that cannot be read counts as none: nothing is taken back.
    pub(crate) fn of(service: &Service) -> Self {
        let annotations = service.metadata.annotations.as_ref();
        let text = annotations.and_then(|annotations| annotations.get(ANNOTATION));
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The note as text; `None`: there is nothing to note.
    pub(crate) fn text(&self) -> Option<String> {
        (*self != Self::default()).then(|| serde_json::json!(self).to_string())
    }
}
