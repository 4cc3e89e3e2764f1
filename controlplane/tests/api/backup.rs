//! Backups over HTTP: consistent while commands are committed, and restored only into new clusters.

use romana_statemachine::backup::{BackupError, Check, Checked, Reader};
use serde_json::json;

use crate::world::World;

fn read(bytes: &[u8]) -> Result<Checked, BackupError> {
    let (mut reader, mut check) = (Reader::new(), Check::new());
    reader.push(bytes);
    while let Some(part) = reader.part()? {
        check.part(&part)?;
    }
    reader.finish()?;
    check.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_history_of_a_backup_are_of_one_revision() {
    let world = World::furnished().await;
    let allocate = async {
        for n in 0..300 {
            let ask = json!({"name": format!("a{n}"), "host": "h1", "tenant": "t", "segment": "s"});
            assert_eq!(world.post("/v1/addresses", &ask).await.status, 201);
        }
    };
    let back_up = async {
        let mut revisions = Vec::new();
        for _ in 0..10 {
            let answer = world.get("/v1/backup").await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.headers["content-type"], "application/octet-stream");
            let checked = read(&answer.body).unwrap();
            assert!(checked.replayed);
            let revision = checked.header.revision;
            assert_eq!(answer.headers["x-romana-revision"], revision.to_string().as_str());
            let name = answer.headers["content-disposition"].to_str().unwrap().to_owned();
            assert!(
                name.contains(&format!("{}-{revision}.backup", checked.header.cluster)),
                "{name}"
            );
            revisions.push(revision);
        }
        revisions
    };
    let ((), revisions) = tokio::join!(allocate, back_up);
    assert!(revisions.is_sorted());
    let small = read(&world.get("/v1/backup?history=false").await.body).unwrap();
    assert_eq!((small.end.records, small.header.addresses), (0, 300));
    let cluster = world.get("/v1/cluster").await;
    assert_eq!(cluster.headers["x-romana-cluster"], small.header.cluster.as_str());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused() {
    let world = World::new().await;
    assert_eq!(world.get("/v1/backup?history=perhaps").await.code(), "MalformedQuery");
    let refused = world.ask("GET", "/v1/backup", &[("accept", "application/json")], "").await;
    assert_eq!(refused.code(), "NotAcceptable");
    // This replica belongs to a cluster: any upload, of any size, is refused.
    for length in [0, 10, 20 << 20] {
        let body = vec![0_u8; length];
        let kind = [("content-type", "application/octet-stream")];
        let answer = world.ask("POST", "/v1/restore", &kind, body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "ClusterNotEmpty"));
        assert!(answer.json()["error"]["hint"].as_str().unwrap().contains("--await-restore"));
    }
    world.end().await;
}
