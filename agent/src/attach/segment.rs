//! The segment of a container: as its configuration says, or as the control plane knows it of the pod.

use romana_api::pod::PodSegment;
use romana_client::Error;
use romana_statemachine::name::{SegmentId, TenantId};
use tokio::time::timeout;

use super::Attacher;
use crate::ipc::{Add, Failed};

impl Attacher {
    /// The request with the segment of its pod. While the control plane is away, a pod gets an address of the segment
    /// `default` from the reserve, if there is one: policies go by what the pod is as soon as the log has it.
    pub(super) async fn with_segment(&self, add: &Add) -> Result<Add, Failed> {
        let Some(pod) = &add.segment_of else { return Ok(add.clone()) };
        let spare = [true, false].into_iter().any(|v4| {
            let (tenant, segment) = (TenantId::from(&*add.tenant), SegmentId::from(&*add.segment));
            self.reserve.has(&(tenant, segment, v4))
        });
        let asked = self.client.pod_segment(pod);
        let answer = match spare {
            true => timeout(self.patience(), asked).await.ok(),
            false => Some(asked.await),
        };
        let segment = match segment(answer, spare)? {
            Some(segment) => segment.to_string(),
            None => add.segment.clone(),
        };
        Ok(Add { segment, ..add.clone() })
    }
}

/// The segment that was answered; `None`: the one that the plugin assumes. `spare`: there is an address for that one.
fn segment(
    answer: Option<Result<PodSegment, Error>>,
    spare: bool,
) -> Result<Option<SegmentId>, Failed> {
    match answer {
        Some(Ok(found)) => Ok(Some(found.segment)),
        // A control plane of an earlier release.
        Some(Err(Error::Refused(refusal))) if refusal.code == "PathNotFound" => Ok(None),
        // It answers, so the reserve is not for this.
        Some(Err(error @ Error::Refused(_))) => Err(error.into()),
        Some(Err(_)) | None if spare => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use romana_client::ApiError;

    use super::*;
    use crate::attach::code;

    fn refused(code: &str) -> Option<Result<PodSegment, Error>> {
        let refusal = ApiError { code: code.into(), ..ApiError::default() };
        Some(Err(Error::Refused(Box::new(refusal))))
    }

    #[test]
    fn the_answer_counts_and_a_guess_is_for_an_address_in_reserve_only() {
        let front = PodSegment { segment: "front".into(), known: true };
        assert_eq!(segment(Some(Ok(front)), true), Ok(Some("front".into())));
        assert_eq!(segment(refused("PathNotFound"), false), Ok(None));
        assert_eq!(
            segment(refused("InvalidName"), true).map_err(|why| why.code),
            Err(code::REFUSED)
        );
        let away = || Some(Err(Error::Unavailable { why: "it is away".into(), source: None }));
        assert_eq!(segment(away(), true), Ok(None));
        assert_eq!(segment(None, true), Ok(None), "no answer in time");
        assert_eq!(segment(away(), false).map_err(|why| why.code), Err(code::AGAIN));
    }
}
