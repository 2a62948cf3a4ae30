//! Partitions of a topic that an operator lets go on.

use super::*;

#[tokio::test]
async fn partitions_that_have_stopped_are_resumed() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let path = "/v1/sources/topic/resume";
    let reply = fixture.post(path, &[], "{\"skip\": true}").await?;
    let lost = json!({"partition": 3, "start": 5, "end": 9});
    assert_eq!(reply.json(), json!({"resumed": [{"partition": 3, "lost": lost}]}));
    let reply = fixture.post(path, &[], "{\"from_history\": true}").await?;
    let archived = json!({"partition": 3, "start": 5, "end": 6});
    assert_eq!(reply.json(), json!({"resumed": [{"partition": 3, "lost": archived}]}));
    let reply = fixture.post(path, &[], "{}").await?;
    assert_eq!(reply.json(), json!({"resumed": [{"partition": 3, "lost": null}]}), "nothing is skipped unasked");
    fixture.post("/v1/sources/other/resume", &[], "{}").await?.problem(StatusCode::NOT_FOUND, "not-found");
    fixture.post(path, &[], "{\"skp\": true}").await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
    Ok(())
}

#[tokio::test]
async fn dead_letters_are_replayed_when_asked() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let path = "/v1/sources/topic/dead-letters/replay";
    assert_eq!(fixture.post(path, &[], "{}").await?.json(), json!({"replayed": 2, "dry_run": false}));
    assert_eq!(fixture.post(path, &[], "{\"dry_run\": true}").await?.json(), json!({"replayed": 2, "dry_run": true}));
    let other = "/v1/sources/other/dead-letters/replay";
    fixture.post(other, &[], "{}").await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
    Ok(())
}
