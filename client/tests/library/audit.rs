//! Audit queries, and exports that arrive in pieces or not at all.

use romana_client::Error;
use romana_client::audit::{Export, Verification};
use romana_statemachine::Revision;

use crate::support::{Act, Fake};

async fn whole(mut export: Export) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = export.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[tokio::test]
async fn an_export_comes_whole_or_fails() {
    let text = "{\"romana_history\":1}\n{\"end\":{}}\n";
    let fake = Fake::start(None, move |number, _| match number {
        // The first replica closes the connection: a read is safe to retry.
        0 => Act::Cut,
        1 => Act::ok(text),
        2 => Act::Pieces(vec!["{\"romana_history\":1}\n".into()], true),
        3 => Act::Pieces(vec!["{\"romana_history\":1}\n".into()], false),
        _ => Act::status(
            410,
            r#"{"error":{"code":"RevisionCompacted","message":"m","hint":"h","details":{"oldest":9}}}"#,
        ),
    })
    .await;
    let client = fake.client();
    let export = client.audit_export(Some("7"), Some("2026-11-23T00:00:00Z")).await.unwrap();
    assert_eq!(whole(export).await.unwrap(), text.as_bytes());
    let asked = "GET /v1/audit/export?from=7&to=2026-11-23T00:00:00Z HTTP/1.1";
    assert!(fake.seen().iter().all(|seen| seen.line == asked), "{:?}", fake.seen());
    for wanted in ["", "does not go on"] {
        let export = client.audit_export(None, None).await.unwrap();
        let error = whole(export).await.unwrap_err();
        assert!(matches!(&error, Error::Protocol { why } if why.contains(wanted)), "{error}");
    }
    let gone = client.audit_export(None, None).await.unwrap_err();
    assert!(matches!(gone, Error::Refused(error) if error.code == "RevisionCompacted"));
}

#[tokio::test]
async fn answers_are_typed() {
    let fake = Fake::start(None, |_, seen| {
        Act::ok(match seen.line.contains("/who") {
            true => {
                r#"{"items":[{"ip":"10.0.0.1","name":"a","host":"h","tenant":"t","segment":"s",
                "actor":"api","from":{"revision":5,"at":7},"to":null,"reason":null}],"revision":9}"#
            }
            false => r#"{"agreed":false,"replicas":[{"id":2,"ok":false,"error":"damaged"}]}"#,
        })
    })
    .await;
    let client = fake.client();
    let page = client.audit_who("10.0.0.1".parse().unwrap(), Some("6")).await.unwrap();
    assert_eq!((page.items.len(), page.revision), (1, Revision(9)));
    assert!(page.items[0].held_at(Revision(6)) && page.items[0].reason.is_none());
    let Verification { agreed, replicas, .. } = client.audit_verify().await.unwrap();
    assert_eq!((agreed, replicas[0].id, replicas[0].proof.clone()), (false, 2, None));
    assert_eq!(replicas[0].error.as_deref(), Some("damaged"));
}
