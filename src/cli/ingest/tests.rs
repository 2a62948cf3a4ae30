//! The whole of `watershed ingest` against a small server that answers what the test wrote down.

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::cli::{Cli, Command};
use crate::client::fake::{Fake, Reply, Request, problem, problem_of_kind, reply};

const FIRST_TWO: &str = "{\"n\":1}\n{\"n\":2}\n";
const THIRD: &str = "{\"n\":3}\n";
const ROWS: &str = "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";

/// What the server says of its one source, whose log ends at `end`.
fn source(end: u64) -> Reply {
    reply(200, &format!(r#"{{"sources":[{{"name":"edits","position":"edits={end}","offsets":[{end}]}}]}}"#))
}

/// The answer to a new producer's first request, which has no rows.
fn introduced() -> Reply {
    accepted(0, 0)
}

fn accepted(rows: u64, end: u64) -> Reply {
    reply(200, &format!(r#"{{"accepted":{rows},"rejected":0,"errors":[],"position":"edits={end}"}}"#))
}

fn rejected_one(accepted: u64, end: u64) -> Reply {
    let errors = r#"[{"row":0,"column":"n","reason":"too large"}]"#;
    let body = format!(r#"{{"accepted":{accepted},"rejected":1,"errors":{errors},"position":"edits={end}"}}"#);
    reply(200, &body)
}

/// A server, and a folder with a file of three rows that are sent two in a request.
struct Scene {
    folder: TempDir,
    fake: Fake,
}

impl Scene {
    async fn new() -> Scene {
        let scene = Scene { folder: tempfile::tempdir().unwrap(), fake: Fake::start([]).await };
        scene.write(ROWS);
        scene
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("edits.ndjson")
    }

    /// Runs the command once; the server gives these replies. Returns the bodies of events that arrived, without the
    /// empty ones that introduce producers.
    async fn ingest(
        &self,
        options: &[&str],
        replies: impl IntoIterator<Item = Reply>,
    ) -> (Result<ExitCode>, Vec<String>) {
        let (result, sent) = self.ingest_named(options, replies).await;
        (result, sent.into_iter().map(|(_, body)| body).filter(|body| !body.is_empty()).collect())
    }

    /// `ingest`; returns the requests of events with their names.
    async fn ingest_named(
        &self,
        options: &[&str],
        replies: impl IntoIterator<Item = Reply>,
    ) -> (Result<ExitCode>, Vec<(String, String)>) {
        let before = self.fake.requests().len();
        self.fake.reply_with(replies);
        let state = self.folder.path().join("state");
        let (file, state) = (self.file(), state.to_str().unwrap().to_owned());
        let batch_rows = if options.contains(&"--batch-rows") { &[][..] } else { &["--batch-rows", "2"] };
        let fixed = ["watershed", "ingest", "edits", file.to_str().unwrap()];
        let places = ["--url", &self.fake.url, "--state", &state];
        let Command::Ingest(args) =
            Cli::parse_from(fixed.iter().chain(batch_rows).chain(&places).chain(options)).command
        else {
            panic!("another command was parsed");
        };
        let result = execute(args).await;
        let requests = self.fake.requests().split_off(before);
        let events = requests.into_iter().filter(|request| request.target == "/v1/sources/edits/events");
        let text = |request: &Request, name: &str| request.headers[name].to_str().unwrap().to_owned();
        let name = |request: &Request| text(request, "producer-id") + " " + &text(request, "producer-sequence");
        (result, events.map(|request| (name(&request), String::from_utf8(request.body).unwrap())).collect())
    }
}

#[tokio::test]
async fn rows_arrive_in_order_and_a_second_call_sends_nothing() {
    let scene = Scene::new().await;
    let (result, sent) = scene.ingest(&[], [source(0), introduced(), accepted(2, 2), accepted(1, 3)]).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent, [FIRST_TWO, THIRD]);
    let (result, sent) = scene.ingest(&[], [source(3)]).await;
    assert_eq!((result.unwrap(), sent.len()), (ExitCode::SUCCESS, 0));
    let (_, sent) = scene.ingest(&["--again"], [source(3), introduced(), accepted(2, 5), accepted(1, 6)]).await;
    assert_eq!(sent, [FIRST_TWO, THIRD]);
    let (_, sent) = scene.ingest(&["--no-resume"], [source(6), introduced(), accepted(2, 8), accepted(1, 9)]).await;
    assert_eq!(sent, [FIRST_TWO, THIRD]);
}

#[tokio::test]
async fn call_after_a_failure_goes_on_behind_what_was_acknowledged() {
    let scene = Scene::new().await;
    let broken = problem(500, "internal", "the store is gone");
    let (result, sent) = scene.ingest(&[], [source(0), introduced(), accepted(2, 2), broken]).await;
    let error = format!("{:#}", result.unwrap_err());
    assert!(
        error.contains("rows 3 to 3: the store is gone (HTTP 500); whether they were accepted is unknown")
            && error.contains("the same command sends them again, and each counts once"),
        "{error}"
    );
    assert_eq!(sent, [FIRST_TWO, THIRD]);
    let (result, sent) = scene.ingest(&[], [source(2), accepted(1, 3)]).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent, [THIRD]);
}

#[tokio::test]
async fn refused_request_says_that_nothing_of_it_was_accepted() {
    let scene = Scene::new().await;
    let (result, _) = scene.ingest(&[], [source(0), introduced(), problem(413, "too large", "at most 1 MiB")]).await;
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("at most 1 MiB (HTTP 413); none of them was accepted"), "{error}");
}

/// Two rows are acknowledged; the answer to the third is lost.
async fn interrupted() -> (Scene, String) {
    let scene = Scene::new().await;
    let broken = problem(500, "internal", "the store is gone");
    let (result, sent) = scene.ingest_named(&[], [source(0), introduced(), accepted(2, 2), broken]).await;
    result.unwrap_err();
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["0", "1", "2"], "a producer's first request has no rows");
    let name = sent[2].0.clone();
    (scene, name)
}

#[tokio::test]
async fn request_whose_answer_was_lost_is_sent_again_as_it_was_though_the_file_has_grown() {
    for grown in [format!("{ROWS}{{\"n\":4}}\n"), format!("\n{ROWS}")] {
        let (scene, name) = interrupted().await;
        scene.write(&grown);
        let replies = [source(2), accepted(1, 3), accepted(1, 4)];
        let (result, sent) = scene.ingest_named(&["--batch-rows", "1"], replies).await;
        if !grown.starts_with(ROWS) {
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("rows 3 to 3") && error.contains("--again") && sent.is_empty(), "{error}");
            continue;
        }
        assert_eq!(result.unwrap(), ExitCode::SUCCESS);
        assert_eq!(sent[0], (name.clone(), THIRD.to_owned()));
        assert_eq!(sent[1], (name.replace(" 2", " 3"), "{\"n\":4}\n".to_owned()));
        assert_eq!(sent.len(), 2);
    }
}

#[tokio::test]
async fn row_without_a_line_end_that_was_sent_so_is_sent_again_so() {
    let scene = Scene::new().await;
    scene.write("{\"n\":1}\n{\"n\":2}\n{\"n\":3");
    let lost = || problem(500, "internal", "the store is gone");
    let (_, first) = scene.ingest_named(&[], [source(0), introduced(), accepted(2, 2), lost()]).await;
    scene.write("{\"n\":1}\n{\"n\":2}\n{\"n\":30}\n{\"n\":4}\n");
    let (_, again) = scene.ingest_named(&[], [source(2), lost()]).await;
    assert_eq!(again, first[2..]);
    assert_eq!(again[0].1, "{\"n\":3\n");
}

#[tokio::test]
async fn lost_answer_is_asked_for_again_under_the_same_name_within_one_call() {
    let scene = Scene::new().await;
    let lost = || accepted(2, 2).cut_off();
    let replies = [source(0), introduced().cut_off(), introduced(), lost(), lost(), accepted(2, 2), accepted(1, 3)];
    let (result, sent) = scene.ingest_named(&["--no-resume"], replies).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!((&sent[0], &sent[2], &sent[3]), (&sent[1], &sent[3], &sent[4]));
    assert_eq!(sent.len(), 6);
}

#[tokio::test]
async fn rows_that_the_platform_has_in_another_form_are_not_sent_again() {
    let (scene, _) = interrupted().await;
    let reused = problem_of_kind(422, "idempotency-key-reused");
    let (result, sent) = scene.ingest(&[], [source(3), reused]).await;
    assert_eq!((result.unwrap(), sent.len()), (ExitCode::SUCCESS, 1));
    let (result, sent) = scene.ingest(&[], [source(3)]).await;
    assert_eq!((result.unwrap(), sent.len()), (ExitCode::SUCCESS, 0));
}

#[tokio::test]
async fn rows_that_nobody_remembers_are_sent_or_left_out_as_the_user_says_and_not_before() {
    let unknown = || problem_of_kind(409, "sequence-out-of-order");
    let (scene, name) = interrupted().await;
    for _ in 0..2 {
        let (result, sent) = scene.ingest_named(&[], [source(2), unknown()]).await;
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains("rows 3 to 3") && error.contains("--in-doubt"), "{error}");
        assert_eq!(sent, [(name.clone(), THIRD.to_owned())]);
    }
    let replies = [source(2), unknown(), introduced(), accepted(1, 3)];
    let (result, sent) = scene.ingest_named(&["--in-doubt", "send"], replies).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent[2].1, THIRD);
    assert!(sent[2].0 != name && sent[2].0.ends_with(" 1"), "a new producer's first rows: {}", sent[2].0);

    let (scene, _) = interrupted().await;
    scene.write(&format!("{ROWS}{{\"n\":4}}\n"));
    let replies = [source(2), unknown(), introduced(), accepted(1, 3)];
    let (result, sent) = scene.ingest(&["--in-doubt", "skip"], replies).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent, [THIRD, "{\"n\":4}\n"]);
}

#[tokio::test]
async fn refused_request_is_cut_anew_by_the_next_call() {
    let scene = Scene::new().await;
    let replies = [source(0), introduced(), problem(413, "too large", "at most 8 bytes")];
    scene.ingest(&[], replies).await.0.unwrap_err();
    let replies = [source(0), introduced(), accepted(1, 1), accepted(1, 2), accepted(1, 3)];
    let (result, sent) = scene.ingest(&["--batch-rows", "1"], replies).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent, ["{\"n\":1}\n", "{\"n\":2}\n", THIRD]);
}

#[tokio::test]
async fn rejected_rows_fail_the_command_unless_allowed() {
    let scene = Scene::new().await;
    let (result, sent) = scene.ingest(&[], [source(0), introduced(), rejected_one(1, 1), accepted(1, 2)]).await;
    assert_eq!((result.unwrap(), sent.len()), (ExitCode::FAILURE, 2));
    let options = ["--again", "--allow-rejected"];
    let (result, _) = scene.ingest(&options, [source(2), introduced(), accepted(2, 4), rejected_one(0, 4)]).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
}

#[tokio::test]
async fn file_that_has_grown_is_sent_from_its_old_end() {
    let scene = Scene::new().await;
    scene.write(FIRST_TWO);
    scene.ingest(&[], [source(0), introduced(), accepted(2, 2)]).await.0.unwrap();
    scene.write(ROWS);
    let (result, sent) = scene.ingest(&[], [source(2), introduced(), accepted(1, 3)]).await;
    assert_eq!(result.unwrap(), ExitCode::SUCCESS);
    assert_eq!(sent, [THIRD]);
}

#[tokio::test]
async fn file_that_has_changed_is_refused() {
    let scene = Scene::new().await;
    scene.ingest(&[], [source(0), introduced(), accepted(2, 2), accepted(1, 3)]).await.0.unwrap();
    scene.write("{\"n\":1}\n{\"n\":2}\n{\"n\":30}\n");
    let (result, sent) = scene.ingest(&[], [source(3)]).await;
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("has changed in its first 3 rows") && error.contains("--again"), "{error}");
    assert!(sent.is_empty());
}

#[tokio::test]
async fn source_that_lacks_what_was_acknowledged_is_a_new_one_and_gets_everything() {
    let scene = Scene::new().await;
    scene.ingest(&[], [source(0), introduced(), accepted(2, 2), accepted(1, 3)]).await.0.unwrap();
    let (_, sent) = scene.ingest(&[], [source(1), introduced(), accepted(2, 3), accepted(1, 4)]).await;
    assert_eq!(sent, [FIRST_TWO, THIRD]);
}

#[tokio::test]
async fn truncated_input_fails_after_the_rows_before() {
    let scene = Scene::new().await;
    scene.write("[{\"n\":1},{\"n\":2},{\"n\":3},{\"n\":");
    let options = ["--format", "json"];
    let (result, sent) = scene.ingest(&options, [source(0), introduced(), accepted(2, 2), accepted(1, 3)]).await;
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains("edits.ndjson: the input ends in the middle of row 4"), "{error}");
    assert_eq!(sent, ["[{\"n\":1},{\"n\":2}]", "[{\"n\":3}]"]);
}

#[tokio::test]
async fn unknown_source_is_found_out_before_anything_is_sent() {
    let scene = Scene::new().await;
    let (result, sent) = scene.ingest(&[], [reply(200, r#"{"sources":[]}"#)]).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("there is no source \"edits\"") && sent.is_empty(), "{error}");
}
