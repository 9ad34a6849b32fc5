//! A store's figures while a job runs: the STATUS file that `inspect --watch` follows, and Prometheus' text format over HTTP.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use embedrock::Store;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

const INTERVAL: Duration = Duration::from_secs(1);
/// One that asks for more, or takes longer, is not Prometheus.
const MAX_REQUEST_BYTES: u64 = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `work` while figures are published once a second; with an address they are also answered there.
pub(crate) fn published<T>(
    store: &Store,
    address: Option<SocketAddr>,
    work: impl FnOnce() -> T,
) -> Result<T, Box<dyn std::error::Error>> {
    let metered = address.is_some();
    if let Some(address) = address {
        let handle = PrometheusBuilder::new().install_recorder()?;
        let listener = TcpListener::bind(address)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address} for --metrics: {error}")))?;
        eprintln!("metrics at http://{}/metrics", listener.local_addr()?);
        let _detached: JoinHandle<()> = thread::Builder::new().name("metrics".into()).spawn(move || serve(&listener, &handle))?;
    }
    let publish = || {
        if metered {
            store.stats().record();
        }
        if let Err(error) = store.publish_status() {
            tracing::warn!(%error, "the status could not be published");
        }
    };
    publish();
    thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                publish();
            }
            publish();
        });
        let _done: Sender<()> = done;
        Ok(work())
    })
}

/// Answers each request with the figures, one after the other, until the process ends.
fn serve(listener: &TcpListener, handle: &PrometheusHandle) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, &handle.render())) {
            tracing::debug!(%error, "a request for metrics was not answered");
        }
    }
}

fn answer(mut stream: TcpStream, body: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new((&stream).take(MAX_REQUEST_BYTES));
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut line = first.clone();
    while !line.trim_end().is_empty() {
        line.clear();
        request.read_line(&mut line)?;
    }
    let (status, body) = match first.split_whitespace().collect::<Vec<_>>()[..] {
        ["GET", "/metrics" | "/", ..] => ("200 OK", body),
        _ => ("404 Not Found", "GET /metrics\n"),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    stream.flush()
}
