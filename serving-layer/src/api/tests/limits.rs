//! Requests that are too many, too large, too slow or never end, on real connections.

use tokio::task::JoinHandle;
use watershed_shared::telemetry::ReasonLabel;

use super::*;

/// Longest that anything here may take; generous, because other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a port of its own.
struct Served {
    platform: Arc<FakePlatform>,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

impl Served {
    async fn start(limits: ConnectionsConfig) -> std::result::Result<Served, Box<dyn std::error::Error>> {
        Served::start_over(FakePlatform::default(), limits).await
    }

    async fn start_over(
        platform: FakePlatform,
        limits: ConnectionsConfig,
    ) -> std::result::Result<Served, Box<dyn std::error::Error>> {
        let options = ApiOptions { connections: limits.clone(), ..ApiOptions::default() };
        let Fixture { platform, router } = Fixture::with_options(platform, options)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let metrics = platform.metrics.clone();
        let server = tokio::spawn(serve(listener, router, limits, metrics, async move {
            let _ = stopped.await;
        }));
        Ok(Served { platform, address, stop, server })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.address).await
    }

    /// All that is answered to `request` until the server closes the connection.
    async fn answer(&self, request: &[u8]) -> std::result::Result<String, Box<dyn std::error::Error>> {
        let mut connection = self.connect().await?;
        connection.write_all(request).await?;
        read_all(&mut connection).await
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.platform.metrics.requests_refused.get_or_create(&ReasonLabel { reason }).get()
    }

    async fn until(&self, is_so: impl Fn(&Served) -> bool) -> TestResult {
        let so = async {
            while !is_so(self) {
                tokio::task::yield_now().await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, so).await?)
    }
}

async fn read_all(connection: &mut TcpStream) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn impatient() -> ConnectionsConfig {
    let moment = Duration::from_millis(50);
    ConnectionsConfig { header_timeout: moment, stall_timeout: moment, ..ConnectionsConfig::default() }
}

#[track_caller]
fn assert_refused(answer: &str, status: &str, kind: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "expected {status}: {answer}");
    assert!(answer.contains(&format!("/problems/{kind}\"")), "expected {kind}: {answer}");
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off_and_so_is_a_silent_connection() -> TestResult {
    let served = Served::start(impatient()).await?;
    let answer = served.answer(b"POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\n").await?;
    assert_refused(&answer, "408 Request Timeout", "header-timeout");
    assert_eq!(served.refused("header-timeout"), 1);
    assert_eq!(served.answer(b"").await?, "", "nobody asked anything");
    let between = served.answer(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert!(between.starts_with("HTTP/1.1 200 OK") && between.matches("HTTP/1.1").count() == 1, "{between}");
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() -> TestResult {
    let served = Served::start(ConnectionsConfig::default()).await?;
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = served.answer(head.as_bytes()).await?;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_stalls_or_trickles_is_cut_off() -> TestResult {
    let served = Served::start(impatient()).await?;
    let head = "POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let answer = served.answer(format!("{head}{{}}\n").as_bytes()).await?;
    assert_refused(&answer, "408 Request Timeout", "body-timeout");
    assert!(answer.contains("connection: close"), "{answer}");

    let mut trickling = served.connect().await?;
    trickling.write_all(head.as_bytes()).await?;
    let (mut answer, mut body) = trickling.into_split();
    let sender = tokio::spawn(async move {
        while body.write_all(b"\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut status = [0; 20];
    tokio::time::timeout(PATIENCE, answer.read_exact(&mut status)).await??;
    assert_eq!(&status, b"HTTP/1.1 408 Request");
    sender.abort();
    assert_eq!(served.refused("body-timeout"), 2);
    assert_eq!(served.platform.budget.0.reserved(), 0, "their memory is free again");
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() -> TestResult {
    let mut large = view("x");
    large.sql = "x".repeat(64 << 20);
    let platform = FakePlatform { views: vec![large], ..FakePlatform::default() };
    let served = Served::start_over(platform, impatient()).await?;
    let mut connection = served.connect().await?;
    connection.write_all(b"GET /v1/views HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    served.until(|served| served.refused("answer-timeout") == 1).await?;
    // What the system had taken arrives, and the connection breaks: it does not look like the whole answer.
    let mut taken = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut taken)).await?;
    assert!(taken.len() < 64 << 20, "{} bytes arrived", taken.len());
    Ok(())
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_health_is_told_all_the_same() -> TestResult {
    let served = Served::start(ConnectionsConfig { count_max: 1, ..ConnectionsConfig::default() }).await?;
    let mut first = served.connect().await?;
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut begun = [0; 15];
    first.read_exact(&mut begun).await?;
    assert_eq!(&begun, b"HTTP/1.1 200 OK");

    let refused = served.answer(b"GET /v1/views HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert_refused(&refused, "503 Service Unavailable", "too-many-connections");
    assert!(refused.contains("retry-after: 1") && refused.contains("connection: close"), "{refused}");
    let healthy = served.answer(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    assert!(healthy.starts_with("HTTP/1.1 200 OK"), "{healthy}");

    drop(first);
    served.until(|served| served.platform.metrics.connections.get() == 0).await?;
    let answer = served.answer(b"GET /v1/views HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn events_for_which_there_is_no_memory_are_refused_before_they_are_sent() -> TestResult {
    let served = Served::start(ConnectionsConfig::default()).await?;
    let budget = Arc::clone(&served.platform.budget.0);
    let others = budget.reserve(budget.bytes_max() - 99, 0).ok_or("the budget is empty")?;
    let head =
        "POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n";
    let refused = served.answer(head.as_bytes()).await?;
    assert_refused(&refused, "429 Too Many Requests", "overloaded");
    assert!(refused.contains("retry-after: 1") && refused.contains("\"bytes_max\":1048576"), "{refused}");

    let small =
        "POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\n{}\n";
    let accepted = served.answer(small.as_bytes()).await?;
    assert!(accepted.starts_with("HTTP/1.1 200 OK"), "there is room for this one: {accepted}");
    drop(others);
    let accepted = served
        .answer(format!("{}{}", head.replace("expect: 100-continue", "connection: close"), "\n".repeat(100)).as_bytes())
        .await?;
    assert!(accepted.contains("\"accepted\":100"), "{accepted}");
    assert_eq!((served.refused("overloaded"), budget.reserved()), (1, 0));
    Ok(())
}

#[tokio::test]
async fn bodies_of_unknown_size_are_refused_when_they_outgrow_the_memory() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let budget = Arc::clone(&fixture.platform.budget.0);
    let _others = budget.reserve(512 << 10, 0).ok_or("the budget is empty")?;
    let lines = |bytes: usize| vec![b'\n'; bytes];
    let chunked = |bytes: usize| {
        let chunks =
            lines(bytes).chunks(1000).map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk.to_vec()))).collect::<Vec<_>>();
        Body::from_stream(stream::iter(chunks))
    };
    assert_eq!(fixture.post(EVENTS, &[], chunked(300 << 10)).await?.json()["accepted"], 300 << 10);
    let small = gzip(&lines(300 << 10))?;
    assert_eq!(fixture.post(EVENTS, &[(CONTENT_ENCODING, "gzip")], small).await?.json()["accepted"], 300 << 10);
    let refused = [
        fixture.post(EVENTS, &[], chunked(600 << 10)).await?,
        fixture.post(EVENTS, &[(CONTENT_ENCODING, "gzip")], gzip(&lines(600 << 10))?).await?,
    ];
    for reply in refused {
        reply.problem(StatusCode::TOO_MANY_REQUESTS, "overloaded");
        assert_eq!(reply.header(RETRY_AFTER), "1");
    }
    assert_eq!(budget.reserved(), 512 << 10);
    Ok(())
}

#[tokio::test]
async fn the_platform_stops_in_time_whatever_clients_do() -> TestResult {
    let limits = ConnectionsConfig { stop_timeout: Duration::from_millis(50), ..ConnectionsConfig::default() };
    let served = Served::start(limits).await?;
    let mut clients = Vec::new();
    for begun in ["", "GET / HT", "POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{"] {
        let mut client = served.connect().await?;
        client.write_all(begun.as_bytes()).await?;
        clients.push(client);
    }
    served.stop.send(()).map_err(|()| "the server has ended")?;
    tokio::time::timeout(PATIENCE, served.server).await???;
    drop(clients);
    Ok(())
}
