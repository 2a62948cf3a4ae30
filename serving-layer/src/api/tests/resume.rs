//! Partitions of a topic that an operator lets go on.

use super::*;

#[tokio::test]
async fn partitions_that_have_stopped_are_resumed() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let path = "/v1/sources/topic/resume";
    let reply = fixture.post(path, &[], "{\"skip\": true}").await?;
    let lost = json!({"partition": 3, "start": 5, "end": 9});
    assert_eq!(reply.json(), json!({"resumed": [{"partition": 3, "lost": lost}]}));
    let reply = fixture.post(path, &[], "{}").await?;
    assert_eq!(reply.json(), json!({"resumed": [{"partition": 3, "lost": null}]}), "nothing is skipped unasked");
    fixture.post("/v1/sources/other/resume", &[], "{}").await?.problem(StatusCode::NOT_FOUND, "not-found");
    fixture.post(path, &[], "{\"skp\": true}").await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
    Ok(())
}
